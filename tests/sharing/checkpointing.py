"""Activation checkpointing, switched on as training does."""


def checkpoint_activations(encoder):
    model = encoder.model  # its method has had two names in transformers 5
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
