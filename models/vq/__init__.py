"""The VQ split transformer (DCCT): a device half and a cloud half that exchange codes. Nothing here imports Flower.

    network/presets           tiny (from scratch), minilm (pretrained): a `Shape`, and both halves of it
    network/halves            `DeviceHalf`, `CloudHalf`; `Half.state`, `load` and `axes` serve the aggregation
    network/heads             what a task reads from the cloud half, and its loss
    network/composite         both halves in one graph
    network/body, task_body   both halves and a head as one body, for one task or several
    quantiser/codebook        `Codebook`: codes, their statistics, gradients through them
    quantiser/codebook_ema    `CodebookEMA`: how the server learns the codebook from summed statistics
    quantiser/codec           tensors as bytes
    quantiser/boundary        channels, messages, bytes of the traffic
    ends                      `DeviceEnd`, `CloudEnd`: a training step in which the halves exchange only bytes
    session                   one client's round of split training
    training/pretrain         masked and replaced tokens; `training/gradnorm`: loss weights of several tasks
    training/train            central training through the boundary, with a scheduled quantiser; the study vq-e1 uses it
    training/tasks            the same for several tasks that share a cloud half; the study vq-e4 uses it

One round of one client, simulated or distributed::

    device.set_codebook(codebook)                                 # of the round; cloud.codebook likewise
    for tokens, labels in ...:
        logits = cloud.send_logits(device.send(tokens, "train", seed), "train", seed + 1)
        loss, gradient = device.loss_gradient(logits, loss_of_labels)
        device.update(cloud.update(gradient))
    ema = ema.update(sum of device.statistics, decay).revive(generator)
"""
