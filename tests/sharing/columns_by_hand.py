"""What the tests of columns have in common: most of all, mixtures worked out with one plain encoder a column."""

import torch
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED

from mtl_cli.encoders import Encoder
from mtl_cli.sharing.wrappers import hidden_of, with_hidden

COLUMNS = ("a", "b", "c")
LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
WAYS = [(family, packed) for family in CONFIGS for packed in ([True, False] if family in PACKED else [False])]


def attached(make_encoder, strategy, family, packed=None, tasks=COLUMNS):
    encoder = make_encoder(family, packed).eval()
    strategy.attach(encoder, list(tasks))
    return encoder, strategy


def set_rows(mixture, weights):
    """Set the weights of a `MixtureRows`, (K, ...)."""
    with torch.no_grad():
        if mixture.of_all is not None:
            mixture.of_all.copy_(weights)
        for row, values in zip(mixture.of_task.values(), weights, strict=False):
            row.weights.copy_(values)


def encode(strategy, encoder, lengths=LENGTHS, packed=None, seed=0):
    """Hidden states of random rows, their ids, and their layout."""
    packed = encoder.packed if packed is None else packed
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=packed, seed=seed)
    return strategy.encode(encoder, input_ids_N, None, layout), input_ids_N, layout


def drift_apart(encoder, seed=7, scale=0.1):
    """Give all columns weights of their own, and change mixtures as well."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def plain_encoder(family, stitched, column, packed=None):
    """An encoder without columns that has the weights of one column."""
    if packed is None:
        packed = stitched.packed
    encoder = Encoder(tiny_encoders.reference_model(family), tiny_encoders.tokenizer(), pooling="first", packed=packed)
    others = [name for name in COLUMNS if name != column]
    found = {}
    for name, parameter in stitched.named_parameters():
        parts = name.split(".")
        if not any(other in parts for other in others):
            found[".".join(part for part in parts if part not in ("wrapped", "of_task", "of_several", column))] = (
                parameter
            )
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(found[name])
    return encoder.eval()


def run_with(encoder, replaced, input_ids_N, layout):
    """Run a plain encoder whose lowest blocks give what `replaced` says; return the next block's output and the end's.

    Both without padding, (N, D); what `replaced` holds may have any numbers in padding.
    """
    seen = []
    hooks = []
    for number, block in enumerate(encoder.blocks):

        def hook(module, args, output, number=number):
            if number < len(replaced):
                return with_hidden(output, replaced[number])
            if number == len(replaced):
                seen.append(hidden_of(output))
            return None

        hooks.append(block.register_forward_hook(hook))
    try:
        end_ND = encoder(input_ids_N, None, layout)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else None, end_ND


def expected(encoders, mix, mix_depths, input_ids_N, layout):
    """The last hidden states of each column for all rows, {column: (N, D)}.

    Args:
        encoders: column -> its plain encoder.
        mix: from the number of a block and {column: output} to {column: mixture}.
        mix_depths: from {column: mixtures of all blocks} to {column: what the last block gives in their place}.
        input_ids_N: of all rows.
        layout: of all rows.
    """
    mixed = {column: [] for column in encoders}
    num_blocks = len(next(iter(encoders.values())).blocks)
    for number in range(num_blocks):
        outputs = {c: run_with(encoder, mixed[c], input_ids_N, layout)[0] for c, encoder in encoders.items()}
        for column, value in mix(number, outputs).items():
            mixed[column].append(value)
    last = mix_depths(mixed)
    return {
        column: run_with(encoder, [*mixed[column][:-1], last[column]], input_ids_N, layout)[1]
        for column, encoder in encoders.items()
    }


def check_rows(found_ND, expected_of_columns, layout):
    """Each task's tokens are those of its own column."""
    for task, tokens in layout.token_slices.items():
        torch.testing.assert_close(found_ND[tokens], expected_of_columns[task][tokens], atol=1e-5, rtol=1e-5)


def assert_starts_as_the_plain_encoder(make_encoder, strategy, family, packed):
    plain = make_encoder(family, packed).eval()
    input_ids_N, layout = tiny_encoders.rows({"a": [5, 17, 2], "c": [3, 30]}, packed=packed)
    encoder, _ = attached(make_encoder, strategy, family, packed)
    found_ND = strategy.encode(encoder, input_ids_N, None, layout)
    torch.testing.assert_close(found_ND, plain(input_ids_N, None, layout), atol=1e-5, rtol=1e-5)


def assert_rows_stay_apart(make_encoder, strategy, family):
    """Rows of a task are the same with and without the others."""
    encoder, _ = attached(make_encoder, strategy, family)
    drift_apart(encoder)
    together_ND, input_ids_N, layout = encode(strategy, encoder)
    for task, tokens in layout.token_slices.items():
        alone_ND = strategy.encode(encoder, input_ids_N[tokens], None, layout.of(task))
        torch.testing.assert_close(alone_ND, together_ND[tokens], atol=1e-5, rtol=1e-5)


def assert_one_task_has_the_plain_encoder(make_encoder, strategy):
    encoder, _ = attached(make_encoder, strategy, "bert", tasks=["a"])
    plain = make_encoder("bert").eval()
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    found_ND, input_ids_N, layout = encode(strategy, encoder, {"a": [4, 9]})
    torch.testing.assert_close(found_ND, plain(input_ids_N, None, layout))
