"""Models, tasks, losses, augmentation, metrics, and the settings of training."""

from fedlab.learning import models, segmentation_models, timm_models

__all__ = ["models", "segmentation_models", "timm_models"]
