"""How the draws of a loss are split into chunks."""

from typing import Any

from numpyro_sumo.ragged.queue import Layout

#: Slots evaluated at a time in the loop if there is one datum.
_CHUNK_OF_ONE = 3

#: The first chunk of the tails of many data has at most this many draws of each.
_LARGEST_FIRST_CHUNK = 8


def layout_of(loss: Any, num_data: int) -> Layout:
    """How the draws of ``num_data`` data are split into chunks."""
    num_fixed, block_size = loss.fixed_blocks(num_data)
    chunk_size = loss.chunk_size or max(_CHUNK_OF_ONE, num_data)
    if num_data == 1:
        first_chunk = 0
    else:
        # The tails hold this many draws on average; the rest takes a loop.
        mean_tail = loss.mean_draws - loss.from_above - num_fixed * block_size
        first_chunk = int(loss.first_chunk_share * num_data * mean_tail)
        limit = _LARGEST_FIRST_CHUNK * num_data
        if loss.chunk_size is not None:
            limit = max(0, loss.chunk_size - num_fixed * block_size * num_data)
        first_chunk = min(first_chunk, limit)
    in_blocks = lambda draws: max(1, draws // block_size)
    return Layout(
        num_fixed,
        first_chunk // block_size,
        in_blocks(chunk_size),
        block_size,
        None if loss.chunk_size is None else in_blocks(loss.chunk_size),
        loss.sharding,
    )
