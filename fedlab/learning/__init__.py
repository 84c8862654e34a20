"""Models, tasks, augmentation, metrics, and the settings of training."""
