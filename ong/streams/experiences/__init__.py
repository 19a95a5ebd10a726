"""What Avalanche reads tasks by: data sets, loader and augmentation over tensors. To import one imports Avalanche."""
