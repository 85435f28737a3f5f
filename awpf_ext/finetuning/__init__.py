"""Fine-tuning CLIP: what can be trained, its losses, gradients of joint batches, the buffer."""
