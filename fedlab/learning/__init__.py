"""What is learnt and how it is judged: models, tasks, augmentation, metrics, and the settings of training."""
