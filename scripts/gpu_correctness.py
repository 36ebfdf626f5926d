"""Is what we compute on a GPU right? Comparisons with references, for scripts/gpu_check.py."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mtl_cli.bench.single_task import stock_encoder
from mtl_cli.bench.synthetic import SyntheticRun, make_step, moments_past_warm_ups, told_of_tasks
from mtl_cli.build import instantiate
from mtl_cli.data import TaskData
from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.encoders import Encoder, Layout, attention
from mtl_cli.encoders.compiling import compile_blocks
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import autocast
from mtl_cli.sampling import AllTasks
from mtl_cli.saved_model import UnavailableSource
from mtl_cli.sharing import HardSharing
from mtl_cli.tasks import SingleTextClassification
from mtl_cli.tracking import Loggers, NoMetricsFile, Progress, RunFolder, RunInfo
from mtl_cli.training import AdamW, Constant, Trainer, TrainingRun
from mtl_cli.training.loop import Loop
from mtl_cli.weighting import FAMO, RLW, Equal, PCGrad, UncertaintyWeighting, Weighting

LENGTHS = np.array([3, 64, 17, 1, 40, 128, 9, 64])
WARM_STEPS, WATCHED_STEPS = 3, 5
WEIGHTS_BF16 = 5e-2  # gradients that have come through two blocks in bf16
SHORTEST = 1e-3  # of the length of all gradients, what a kind of parameters has at least
SHARING = Path(__file__).parents[1] / "conf/sharing"


@dataclass
class Check:
    """How one comparison went.

    Attributes:
        name: what was compared.
        error: the largest difference, relative to the reference's largest value.
        tolerance: what it may be.
        passed: whether it is.
        seconds: it took.
        note: what else there is to know.
    """

    name: str
    error: float = float("nan")
    tolerance: float = 0.0
    passed: bool = False
    seconds: float = 0.0
    note: str = ""


def small_encoder(packed: bool) -> Encoder:
    """A BERT of random weights whose heads the variable-length kernel can serve (64 wide)."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        initializer_range=0.1,  # with the usual 0.02 attention hardly matters to what comes out
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    words = {name: place for place, name in enumerate(["[PAD]", "[UNK]", *(f"w{i}" for i in range(198))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.model_max_length = 128
    return Encoder(BertModel(config, add_pooling_layer=False), wrapped, pooling="mean", packed=packed)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of what is expected."""
    a, b = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


def largest(errors: Iterable[float]) -> float:
    """The largest of some errors; NaN where one is, which Python's max may pass over."""
    return float(torch.tensor(list(errors), dtype=torch.float64).max())


def hidden_and_gradients(encoder: Encoder, device: torch.device, precision: Any) -> list[torch.Tensor]:
    """Hidden states of a few rows, (N, D), and the gradients of a weighted sum of them.

    Those for the weights of query, key and value of each layer, (D, D) each.
    """
    encoder = encoder.to(device).train()
    layout = Layout.from_lengths({"a": LENGTHS}, packed=encoder.packed)
    ids_N = torch.randint(2, 200, (int(LENGTHS.sum()),), generator=torch.Generator().manual_seed(1)).to(device)
    with autocast(precision, device):
        hidden_ND = encoder(ids_N, None, layout)
    projections = tuple(f"{name}.weight" for name in ("query", "key", "value"))
    weights = [p for name, p in encoder.model.named_parameters() if name.endswith(projections)]
    weights_ND = torch.randn(hidden_ND.shape, generator=torch.Generator().manual_seed(2)).to(device)
    return [hidden_ND.float(), *torch.autograd.grad((hidden_ND.float() * weights_ND).sum(), weights)]


def reference_hidden(encoder: Encoder) -> torch.Tensor:
    """The same hidden states by transformers' own model, a row at a time, in float32 on the CPU."""
    model = stock_encoder(encoder).eval()
    ids_N = torch.randint(2, 200, (int(LENGTHS.sum()),), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows = [model(input_ids=ids[None]).last_hidden_state[0] for ids in ids_N.split(LENGTHS.tolist())]
    return torch.cat(rows)


def check_attention(device: torch.device) -> Check:
    """Packed rows in bf16, on a GPU through the variable-length kernel, against each row alone in float32."""
    encoder = small_encoder(packed=True)
    expected = reference_hidden(encoder)
    found = hidden_and_gradients(encoder, device, "bf16")[0]
    note = f"torch {torch.__version__}; variable-length attention: {find_spec('torch.nn.attention.varlen') is not None}"
    return Check("attention of packed rows, bf16, against rows alone, fp32", relative(found, expected), 3e-2, note=note)


def check_weight_gradients(device: torch.device) -> Check:
    """Gradients of the weights of queries, keys and values: packed rows in bf16 against padded ones in float32."""
    found = hidden_and_gradients(small_encoder(packed=True), device, "bf16")[1:]
    expected = hidden_and_gradients(small_encoder(packed=False), torch.device("cpu"), "fp32")[1:]
    error = largest(relative(a, b) for a, b in zip(found, expected, strict=True))
    return Check("gradients of query, key and value weights, bf16, against padded rows, fp32", error, WEIGHTS_BF16)


def padded_attention(
    query_HNE: torch.Tensor, key_HNE: torch.Tensor, value_HNE: torch.Tensor, causal: bool, window: int | None
) -> torch.Tensor:
    """Attention within each row, (N, H, E), by padding rows to the longest and a mask."""
    query_BHTE, key_BHTE, value_BHTE = (
        pad_sequence(x_HNE.transpose(0, 1).split(LENGTHS.tolist()), batch_first=True).transpose(1, 2)
        for x_HNE in (query_HNE, key_HNE, value_HNE)
    )
    place_T = torch.arange(int(LENGTHS.max()))
    offset_TT = place_T[:, None] - place_T
    sees_TT = (offset_TT >= 0) if causal else torch.ones_like(offset_TT, dtype=torch.bool)
    sees_TT = sees_TT if window is None else sees_TT & (offset_TT.abs() < window)
    is_real_BT = place_T < torch.from_numpy(LENGTHS)[:, None]
    # A padding query sees itself, so that its softmax is finite; nothing of it is read.
    sees_BTT = (sees_TT & is_real_BT[:, None]) | (offset_TT == 0)
    attended_BHTE = scaled_dot_product_attention(query_BHTE, key_BHTE, value_BHTE, attn_mask=sees_BTT[:, None])
    return attended_BHTE.transpose(1, 2)[is_real_BT]


def check_attention_gradients(device: torch.device) -> Check:
    """Gradients of queries, keys and values in bf16, on a GPU by the variable-length kernel, against padded float32."""
    layout = Layout.from_lengths({"a": LENGTHS}, packed=True)
    H, N, E = 2, int(LENGTHS.sum()), 64
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(H, N, E, generator=generator).bfloat16() for _ in range(3)]
    direction_NHE = torch.randn(N, H, E, generator=generator).bfloat16().float()
    settings = [(causal, window) for causal in (False, True) for window in (None, 16)]
    errors = []
    with counted_ways() as calls:
        for causal, window in settings:
            ours = query, key, value = tuple(x[None].to(device).requires_grad_() for x in drawn)
            found_1NHE, _ = attention.packed_attention(
                torch.nn.Module(), query, key, value, None, layout=layout, is_causal=causal, sliding_window=window
            )
            found = torch.autograd.grad((found_1NHE[0].float() * direction_NHE.to(device)).sum(), ours)
            theirs = query, key, value = tuple(x.float().requires_grad_() for x in drawn)
            expected_NHE = padded_attention(query, key, value, causal, window)
            expected = torch.autograd.grad((expected_NHE * direction_NHE).sum(), theirs)
            pairs = [(found_1NHE[0], expected_NHE), *((a[0], b) for a, b in zip(found, expected, strict=True))]
            errors += [relative(a, b) for a, b in pairs]
    wanted = wanted_way(device)
    error = largest(errors) if calls[wanted] == len(settings) else float("inf")
    note = f"causal or not, with a window or without: {calls[wanted]} of {len(settings)} by {wanted}"
    return Check("gradients of attention, bf16, against padded rows, fp32", error, 2e-2, note=note)


@contextmanager
def counted_ways() -> Iterator[dict[str, int]]:
    """Count the calls of each way in which packed rows can attend."""
    calls: dict[str, int] = {"_attend_varlen": 0, "_attend_in_groups": 0}

    def counting(name: str) -> Callable[..., Any]:
        function = getattr(attention, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **more)

        return counted

    with ExitStack() as stack:
        for name in calls:
            stack.enter_context(mock.patch.object(attention, name, counting(name)))
        yield calls


def wanted_way(device: torch.device) -> str:
    """The way that packed rows in bf16 should take."""
    return "_attend_varlen" if device.type == "cuda" else "_attend_in_groups"


def check_kernel(device: torch.device) -> Check:
    """Which attention packed rows take: in each block the variable-length kernel on a GPU, groups of rows on a CPU."""
    encoder = small_encoder(packed=True)
    with counted_ways() as calls:
        hidden_and_gradients(encoder, device, "bf16")
    wanted = wanted_way(device)
    # A block that took another way, or did not attend at all, is one too many.
    error = abs(calls[wanted] - len(encoder.blocks)) + sum(calls.values()) - calls[wanted]
    note = f"{calls['_attend_varlen']} blocks by the variable-length kernel, {calls['_attend_in_groups']} in groups"
    return Check(
        f"blocks that attend otherwise than by {wanted.removeprefix('_attend_')}", float(error), 0.0, note=note
    )


def check_packed(device: torch.device) -> Check:
    """Packed against padded in float32: hidden states and gradients."""
    packed = hidden_and_gradients(small_encoder(packed=True), device, "fp32")
    padded = hidden_and_gradients(small_encoder(packed=False), device, "fp32")
    error = largest(relative(a, b) for a, b in zip(packed, padded, strict=True))
    return Check("packed against padded, fp32, forward and gradients", error, 1e-4)


def run_without_dropout(device: torch.device) -> SyntheticRun:
    """A run of three tasks in float32, without dropout, which those that are compared would draw differently."""
    run = SyntheticRun(small_encoder(packed=True), HardSharing(), 3, 512, device, precision="fp32", lazy=False)
    run.model.eval()
    return run


def one_step(device: torch.device) -> dict[str, torch.Tensor]:
    """Gradients of a training step of three tasks in float32, without dropout."""
    run = run_without_dropout(device)
    run.engine(Equal()).step([[run.step_of_rows]])
    return {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


def check_step(device: torch.device) -> Check:
    """One training step on the device against the CPU."""
    found, expected = one_step(device), one_step(torch.device("cpu"))
    whole = max(float(gradient.abs().max()) for gradient in expected.values())
    error = largest(float((found[n].cpu() - e).abs().max()) / whole for n, e in expected.items())
    return Check("a training step's gradients, fp32, against the CPU", error, 1e-4)


def check_engines(device: torch.device) -> Check:
    """Each task's gradient from one backward pass against a backward pass a task, under PCGrad."""
    gradients = []
    for engine in ("segmented", "per_task"):
        run = run_without_dropout(device)
        run.engine(PCGrad(engine=engine)).step([[run.step_of_rows]])
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.shared_parameters() if p.grad is not None]))
    return Check("PCGrad by one backward pass against one a task, fp32", relative(*gradients), 1e-4)


def split_of_rows(num_rows: int, seed: int) -> EncodedSplit:
    """Rows of random tokens, of 1 to 64, with a label each."""
    draw = np.random.default_rng(seed)
    starts = np.concatenate(([0], np.cumsum(draw.integers(1, 65, num_rows))))
    return EncodedSplit(
        input_ids=draw.integers(2, 200, starts[-1]).astype(np.int32),
        row_starts=starts,
        token_type_ids=None,
        labels=draw.integers(0, 3, num_rows),
        positions=None,
        label_starts=None,
        word_numbers=None,
        example_numbers=np.arange(num_rows),
        num_examples=num_rows,
    )


def training_loop(
    device: torch.device, folder: Path, weighting: Weighting, class_weights: list[float] | None = None
) -> Loop:
    """The loop of a run of two tasks in bf16, whose rows, and so lengths, differ from step to step."""
    names = ("a", "b")
    tasks = {name: SingleTextClassification(source=UnavailableSource(), class_weights=class_weights) for name in names}
    labels = {name: ["x", "y", "z"] for name in names}
    split = {name: split_of_rows(64, seed) for seed, name in enumerate(names)}
    data = {name: TaskData({"train": split[name], "validation": split[name]}, {}, labels[name]) for name in names}
    run = TrainingRun(
        model=MultiTaskModel(small_encoder(packed=True), HardSharing(), tasks, labels),
        data=data,
        sampler=AllTasks(batch_size=8, bucket_window=0),
        weighting=weighting,
        optimizer=AdamW(),
        schedule=Constant(),
        folder=RunFolder(folder),
        metrics_file=NoMetricsFile(),
        loggers=Loggers(),
        progress=Progress(enabled=False),
        seed=0,
        info=RunInfo(folder=folder, name="check", tasks=names),
    )
    loop = Loop(Trainer(device=str(device), precision="bf16", max_steps=100, steps_per_epoch=100), run, resume=False)
    loop.model.train()
    return loop


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Inside, an operation that makes the CPU wait for the GPU raises RuntimeError; on a CPU nothing is watched."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def check_waiting(device: torch.device) -> Check:
    """Warm training steps, from drawing rows to the optimizer's update, do not wait for the GPU."""
    cases: dict[str, tuple[Weighting, list[float] | None]] = {
        "equal": (Equal(), None),
        "equal with class weights": (Equal(), [1.0, 2.0, 3.0]),
        "uncertainty": (UncertaintyWeighting(), None),
        "famo": (FAMO(), None),
        "rlw": (RLW(), None),
    }
    waiting = []
    for name, (weighting, class_weights) in cases.items():
        with TemporaryDirectory(prefix="mtl-gpu-check-") as folder:
            loop = training_loop(device, Path(folder), weighting, class_weights)
            for _ in range(WARM_STEPS):
                loop._train_step()
            try:
                with no_waiting(device):
                    for _ in range(WATCHED_STEPS):
                        loop._train_step()
            except RuntimeError as error:
                waiting.append(f"{name}: {reason_of(error)}")
    watched = "watched by torch" if device.type == "cuda" else "not watched on a CPU"
    note = "; ".join([f"{WATCHED_STEPS} steps under each of {', '.join(cases)}, {watched}", *waiting])
    return Check("weightings of losses under which steps wait for the GPU", float(len(waiting)), 0.0, note=note)


def strategy_step(settings: Path, device: torch.device, precision: Any) -> dict[str, torch.Tensor]:
    """Gradients, losses and penalties of a training step of three tasks under a sharing strategy, without dropout.

    It is away from the neutral start, where modules of the tasks add nothing and have no gradient inside, and past the
    warm-up. Random numbers of a strategy, which two devices draw differently, are all 1/2.
    """
    names = [f"task{i}" for i in range(3)]
    told = told_of_tasks(yaml.safe_load(settings.read_text(encoding="utf-8")), names)
    if "dropout" in told:
        told["dropout"] = 0.0
    run = SyntheticRun(small_encoder(packed=True), instantiate(told), 3, 512, device, precision, lazy=False)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in run.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(device))
    for module in run.model.modules():  # of the heads
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    engine = run.engine(Equal())
    run.model.sharing.start_step(run.model, next(moments_past_warm_ups()))
    with mock.patch.object(torch, "rand_like", lambda x: torch.full_like(x, 0.5)):
        result = engine.step([[run.step_of_rows]])
    found = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    run.update()
    engine.after_update()
    return found | {f"loss of {name}": loss for name, loss in (result.losses | result.penalties).items()}


def kind_of(name: str) -> str:
    """Whose numbers are compared together: the same parameter of all blocks, tasks and experts, or one loss."""
    return re.sub(r"\.(\d+|task\d+[^.]*)(?=\.|$)", "", name)


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the largest error of a kind of numbers, as a share of its length, but of a thousandth of all's at least.

    What is far shorter is rounding: the gradient of the biases of keys, say, which a softmax over keys does not see.
    """
    errors: dict[str, float] = {}
    lengths: dict[str, float] = {}
    for name, e in expected.items():
        kind = kind_of(name)
        errors[kind] = errors.get(kind, 0.0) + float((found[name].cpu().double() - e.double()).square().sum())
        lengths[kind] = lengths.get(kind, 0.0) + float(e.double().square().sum())
    of_all = SHORTEST * sum(length for kind, length in lengths.items() if not kind.startswith("loss of ")) ** 0.5
    return largest(errors[kind] ** 0.5 / max(lengths[kind] ** 0.5, of_all) for kind in errors)


def check_strategies(device: torch.device, precision: Any, tolerance: float) -> Check:
    """A training step on the device under each shipped sharing strategy against the CPU in float32."""
    errors, failed = [0.0], []
    files = sorted(SHARING.glob("*.yaml"))
    for file in files:
        try:
            found, expected = strategy_step(file, device, precision), strategy_step(file, torch.device("cpu"), "fp32")
            error = relative_error(found, expected)
            reason = f"{error:.1e}"
        except Exception as raised:  # whatever is wrong with one strategy, the others are run
            error, reason = float("inf"), reason_of(raised)
        errors.append(error)
        if not error <= tolerance:
            failed.append(f"{file.stem} ({reason})")
    note = f"{len(files)} strategies" + (f"; failed: {', '.join(failed)}" if failed else "")
    name = f"a training step under each sharing strategy, {precision}, against fp32 on the CPU"
    return Check(name, largest(errors), tolerance, note=note)


def check_strategies_fp32(device: torch.device) -> Check:
    """A training step under each sharing strategy, fp32, against the CPU."""
    return check_strategies(device, "fp32", 1e-4)


def check_strategies_bf16(device: torch.device) -> Check:
    """A training step under each sharing strategy, bf16, against the CPU in float32."""
    return check_strategies(device, "bf16", 5e-2)  # 0.023 measured on a CPU: a token of `moe` takes another expert


def check_compiled(device: torch.device) -> Check:
    """Compiled blocks against eager ones in float32; new lengths compile nothing after the second step."""
    # The rehearsal traces and guards as ever, and generates no code.
    options = {} if device.type == "cuda" else {"backend": "eager"}
    errors = []
    try:
        runs = []
        for is_compiled in (True, False):
            run = run_without_dropout(device)
            if is_compiled:
                compile_blocks(run.model.encoder, **options)
            runs.append((run, run.engine(Equal())))
        for number, num_tokens in enumerate((512, 1024, 1536, 640, 2048)):
            gradients = []
            for run, engine in runs:
                step = make_step(list(run.model.tasks), num_tokens, device, 200)
                with torch.compiler.set_stance("fail_on_recompile" if number > 1 else "default"):
                    engine.step([[step]])
                gradients.append(torch.cat([p.grad.flatten() for p in run.parameters if p.grad is not None]))
                run.optimizer.zero_grad(set_to_none=True)
            errors.append(relative(*gradients))
    finally:
        ALL_ATTENTION_FUNCTIONS.register(attention.PACKED_ATTENTION, attention.packed_attention)
        torch.compiler.reset()
    return Check("compiled blocks against eager ones, fp32, compiled in two steps at most", largest(errors), 1e-4)


CHECKS: tuple[Callable[[torch.device], Check], ...] = (
    check_attention, check_kernel, check_attention_gradients, check_weight_gradients, check_packed, check_step,
    check_engines, check_strategies_fp32, check_strategies_bf16, check_waiting, check_compiled,
)  # fmt: skip


def reason_of(error: Exception) -> str:
    """What was raised, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}"[:500] + f" ({Path(place.filename).name}:{place.lineno})"


def run_checks(device: torch.device) -> list[Check]:
    """Run each check; one that raises has failed."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found = []
    for make in CHECKS:
        began = time.monotonic()
        try:
            check = make(device)
            check.passed = check.error <= check.tolerance
        except Exception as error:  # whatever a kernel raises, the others are run
            check = Check((make.__doc__ or "").rstrip("."), note=reason_of(error))
        check.seconds = time.monotonic() - began
        found.append(check)
        word = "passed" if check.passed else "FAILED"
        print(f"{word}: {check.name}: {check.error:.1e}, at most {check.tolerance:.0e}. {check.note}", flush=True)
    return found
