"""Frozen CLIP backbones, prompt templates and text banks; open_clip is imported on first use."""
