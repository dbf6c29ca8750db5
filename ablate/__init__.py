"""ablate: ablation experiments for multimodal language models that a reader can believe."""
