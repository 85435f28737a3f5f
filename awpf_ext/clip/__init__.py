"""Frozen CLIP backbones, prompt templates and text banks; open_clip is imported on first use."""

from awpf_ext.clip.backbone import Backbone, load_backbone
from awpf_ext.clip.prompts import DEFAULT_PROMPT, prompt_templates, text_bank

__all__ = ["DEFAULT_PROMPT", "Backbone", "load_backbone", "prompt_templates", "text_bank"]
