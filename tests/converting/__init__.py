"""Programs that run in the converter's own environment, which has torch and transformers."""
