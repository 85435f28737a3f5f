"""The operations, one file each; files that begin with an underscore are shared helpers."""

from awpf_ext.ops import _raw_ops  # noqa: F401 (registers fake tensors and vmap rules)
