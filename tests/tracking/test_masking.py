import pytest

from mtl_cli.tracking.masking import MASK, is_secret_name, mask_argument, mask_command, mask_config, mask_text

SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "logger.wandb.api_key",
        "WANDB_API_KEY",
        "HF_TOKEN",
        "token",
        "hubToken",
        "apiKey",
        "apikey",
        "db-password",
        "++x.client_secret",
        "--access-token",
        "AWS_SECRET_ACCESS_KEY",
        "credentials",
    ],
)
def test_names_of_secrets_are_known(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "monkey", "tokens_per_second", "pad_token", "cls_token", "turkey", "tokenizer", "lr", "key_size"],
)
def test_names_of_settings_are_no_secrets(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("argument", "masked"),
    [
        (f"api_key={SECRET}", f"api_key={MASK}"),
        (f"+loggers.wandb.api_key={SECRET}", f"+loggers.wandb.api_key={MASK}"),
        (f"--token={SECRET}", f"--token={MASK}"),
        (f"+x={{api_key:{SECRET},project:p}}", f"+x={{api_key:{MASK},project:p}}"),
        (f"+x={{password: '{SECRET}', n: 3}}", f"+x={{password: {MASK}, n: 3}}"),
        ("task=[glue/sst2,glue/rte]", "task=[glue/sst2,glue/rte]"),
        ("encoder.config_overrides={pad_token_id:0}", "encoder.config_overrides={pad_token_id:0}"),
        ("sampler.max_tokens=2048", "sampler.max_tokens=2048"),
        ("~logger", "~logger"),
    ],
)
def test_a_word_of_the_command_line_is_masked(argument, masked):
    assert mask_argument(argument) == masked


def test_a_secret_in_the_word_after_its_option_is_masked():
    assert mask_command(["mtl", "--api-key", SECRET, "--seed", "1"]) == ["mtl", "--api-key", MASK, "--seed", "1"]


def test_a_nested_configuration_is_masked_in_a_copy():
    config = {"a": {"api_key": SECRET, "lr": 0.1}, "b": [{"password": "p"}], "token": None, "n_key": 3, "max_tokens": 5}
    masked = mask_config(config)
    assert masked == {
        "a": {"api_key": MASK, "lr": 0.1},
        "b": [{"password": MASK}],
        "token": None,
        "n_key": 3,
        "max_tokens": 5,
    }
    assert config["a"]["api_key"] == SECRET


def test_the_value_of_a_secret_variable_is_masked_wherever_it_turns_up(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert mask_text(f"401 for {SECRET}") == f"401 for {MASK}"
    assert mask_argument(f"notes={SECRET}") == f"notes={MASK}"
    assert mask_config({"notes": [f"x{SECRET}y"]}) == {"notes": [f"x{MASK}y"]}


def test_a_variable_with_a_short_value_masks_nothing(monkeypatch):
    monkeypatch.setenv("SORT_KEY", "a")
    assert mask_text("a cat") == "a cat"
