"""Llama Wrangler: a system tray app that runs large language models on this machine."""

__version__ = "0.1.0"
APP_NAME = "Llama Wrangler"
