"""Networks, how they are cut into sub-models, what a sub-model costs, and how the cloud trains them. No Flower here."""
