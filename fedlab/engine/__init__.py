"""What makes a round fast: data on the device once, the model in flat buffers, optimizers as vector expressions."""
