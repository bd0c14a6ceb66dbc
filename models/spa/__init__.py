"""Side Plugin Adaption: a frozen language model in the cloud, a small side network and a gate on the device.

    text ---> base -----------> b ----------------> logits = head(b)          a token of the base
               |                |
               | stack          | gate: a = w.b + c > tau ?
               v                v
             side ------------> o ----------------> logits = head(b + o)      a token with the device's help

`bases` loads and trains base models, `side` and `gate` are what a device owns, `modes` how the two meet, `activations`
what the base says of examples, once and for all, `train` and `metrics` work on those; `session` trains a plugin with
the base beside it or elsewhere. `codec`, `link`, `device`, `cloud` are the same model as two processes.
Nothing here knows of federated learning.
"""
