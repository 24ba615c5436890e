"""Starts the network with the two kinds of heads that recall needs, which small models take long to find by themselves.

Heads that look one, two and three tokens back (layer 0) write what they see beside each token; heads in layers 1 and 2
look for an earlier place with the same three tokens before it and copy the token there ("induction heads", Olsson et
al. 2022; starting attention from such structure: Trockman and Kolter 2023). Training then shapes all of it freely.

The residual stream starts in two halves: the token itself (its first number a constant, which position-only heads
need) and three slots of `head` numbers for the tokens before it.
"""

import torch
from torch import Tensor, nn

from demo.training.network import Network, Shape

SPREAD, CONSTANT = 0.3, 0.9
FAST = 6  # rotary pairs whose angle tells neighbours apart
SLOW = 6  # rotary pairs that hardly turn over the whole context: content is compared in these


@torch.no_grad()
def prime(network: Network) -> None:
    """Overwrite the attention of layers 0 to 2 and the embedding; randomness comes from torch's generator."""
    shape = network.shape
    own = shape.hidden - 3 * shape.head
    look = torch.randn(shape.head, own) / own**0.5
    embedding = network.model.embed_tokens.weight
    embedding.normal_(std=SPREAD)
    embedding[:, own:] = 0.0
    embedding[:, 0] = CONSTANT
    nn.init.constant_(network.model.norm.weight, 0.1)
    _look_back(network, own, look)
    basis = torch.linalg.qr(torch.randn(own, own)).Q
    for layer in (1, 2):
        _find_and_copy(network, layer, own, look, basis)


def _look_back(network: Network, own: int, look: Tensor) -> None:
    """Layer 0, first group: head `h` attends `h + 1` tokens back and writes its view of that token to slot `h`."""
    attention, head = network.blocks()[0].self_attn, network.shape.head
    strength = 1.6
    attention.k_proj.weight[:head] = _constant_column(network.shape, torch.zeros(head // 2), strength)
    attention.v_proj.weight[:head, :own] = look
    for h in range(3):
        turned = _constant_column(network.shape, -(h + 1) * _frequencies(network.shape), strength)
        attention.q_proj.weight[h * head : (h + 1) * head] = turned
        slot = own + h * head
        attention.o_proj.weight[slot : slot + head, h * head : (h + 1) * head] = 0.22 * torch.eye(head)


def _constant_column(shape: Shape, phase: Tensor, strength: float) -> Tensor:
    """A projection `[head, hidden]` that reads only the constant, as a vector at angle `phase` in each fast pair."""
    weight = torch.zeros(shape.head, shape.hidden)
    half = shape.head // 2
    weight[:FAST, 0] = strength * phase[:FAST].cos()
    weight[half : half + FAST, 0] = strength * phase[:FAST].sin()
    return weight


def _frequencies(shape: Shape) -> Tensor:
    return 1.0 / (shape.theta ** (torch.arange(0, shape.head, 2).float() / shape.head))


def _find_and_copy(network: Network, layer: int, own: int, look: Tensor, basis: Tensor) -> None:
    """Each group compares (token, slot 0, slot 1) of a query with (slot 0, slot 1, slot 2) of a key, and copies."""
    attention, shape, head = network.blocks()[layer].self_attn, network.shape, network.shape.head
    half, group = head // 2, shape.heads // shape.kv_heads
    rows = torch.cat((torch.arange(half - SLOW, half), torch.arange(head - SLOW, head)))
    for kv in range(shape.kv_heads):
        compare = 1.4 * torch.randn(3, 2 * SLOW, head) / head**0.5
        key, query = torch.zeros(head, shape.hidden), torch.zeros(head, shape.hidden)
        for i in range(3):
            key[rows, own + i * head : own + (i + 1) * head] = compare[i]
        query[rows, :own] = compare[0] @ look
        for i in range(2):
            query[rows, own + i * head : own + (i + 1) * head] = compare[i + 1]
        at = slice(kv * head, (kv + 1) * head)
        attention.k_proj.weight[at] += key
        part = basis[:, torch.arange(head) + ((layer - 1) * shape.kv_heads + kv) * head % own]
        attention.v_proj.weight[at, :own] = part.T
        for h in range(kv * group, (kv + 1) * group):
            columns = slice(h * head, (h + 1) * head)
            attention.q_proj.weight[columns] += query
            attention.o_proj.weight[:own, columns] = 0.3 * part
