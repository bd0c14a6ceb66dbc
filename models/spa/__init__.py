"""Side Plugin Adaption (SPA): a frozen language model in the cloud; a small side network and a gate on the device.

    text ---> base -----------> b ----------------> logits = head(b)          a token of the base
               |                |
               | stack          | gate: a = w.b + c > tau ?
               v                v
             side ------------> o ----------------> logits = head(b + o)      a token of base and side

`bases` loads and trains base models. `side` and `gate` are the device's parts; `modes` combines them with the base.
`activations` caches the base's states of examples, and `train` and `metrics` use them. `session` trains a plugin with
the base in the same process or another. `codec` encodes messages between the two. Serving is in `experiments.serving`.
Nothing here depends on federated learning.
"""
