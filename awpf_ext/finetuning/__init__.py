"""What fine-tuning CLIP needs below the methods."""
