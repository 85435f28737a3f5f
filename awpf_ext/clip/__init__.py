"""Frozen CLIP backbones, prompt templates and class texts; open_clip is imported on first use."""

from awpf_ext.clip.backbone import Backbone, load_backbone
from awpf_ext.clip.prompted import PromptedClip, prompted_clip
from awpf_ext.clip.prompts import DEFAULT_PROMPT, class_texts, prompt_templates

__all__ = [
    "DEFAULT_PROMPT",
    "Backbone",
    "PromptedClip",
    "class_texts",
    "load_backbone",
    "prompt_templates",
    "prompted_clip",
]
