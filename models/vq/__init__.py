"""The VQ split transformer (DCCT): a device half, a boundary that codes cross, a cloud half. No Flower here.

    presets     tiny (from scratch), minilm (pretrained): a `Shape`, and both halves of it
    halves      `DeviceHalf`, `CloudHalf`; `Half.state`, `load` and `axes` serve the merge
    heads       what a task reads from the cloud half, and its loss
    codebook    `Codebook`: codes, their statistics, the gradient through them
    keeper      `CodebookEMA`: how the server learns the codebook from summed statistics
    codec       tensors as bytes; `boundary`: lines, messages, the ledger
    ends        `DeviceEnd`, `CloudEnd`: a training step of which only bytes pass between the halves
    composite   both halves in one graph; `pretrain`: MLM and ELECTRA on it; `gradnorm`: weights of several tasks
    train       central training through the boundary, with the quantiser scheduled in; the study vq-e1 uses it
    tasks       the same of several tasks that share a cloud half; the study vq-e4 uses it

One round of one device, simulated or really split::

    device.use(codebook)                                          # of the round; cloud.codebook likewise
    for tokens, labels in ...:
        logits = cloud.answer(device.send(tokens, "train", seed), "train", seed + 1)
        loss, gradient = device.answer(logits, loss_of_labels)
        device.learn(cloud.learn(gradient))
    keeper = keeper.update(sum of device.statistics, decay).revive(generator)
"""

from models.vq.ends import CloudEnd, DeviceEnd, Recipe
from models.vq.network.halves import CloudHalf, DeviceHalf, Shape, build
from models.vq.network.heads import HEADS, Head, head_for
from models.vq.network.presets import from_minilm, minilm, minilm_tokenizer, tiny
from models.vq.network.tokens import Tokens, batches, encode
from models.vq.quantiser.boundary import Boundary, Ledger, StaleCodebook, lines
from models.vq.quantiser.codebook import ESTIMATORS, Codebook, Statistics
from models.vq.quantiser.codebook_ema import CodebookEMA, Moments

__all__ = [
    "ESTIMATORS",
    "HEADS",
    "Boundary",
    "CloudEnd",
    "CloudHalf",
    "Codebook",
    "CodebookEMA",
    "DeviceEnd",
    "DeviceHalf",
    "Head",
    "Ledger",
    "Moments",
    "Recipe",
    "Shape",
    "StaleCodebook",
    "Statistics",
    "Tokens",
    "batches",
    "build",
    "encode",
    "from_minilm",
    "head_for",
    "lines",
    "minilm",
    "minilm_tokenizer",
    "tiny",
]
