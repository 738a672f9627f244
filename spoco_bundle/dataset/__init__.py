"""Training and prediction sets: lists of files, checks on annotations, and the crops that training draws."""

import lazy_loader

# loaded on use: lists of files are checked before torch and MONAI are there
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch_dataset": ["BatchDataset"],
        "crop_dataset": ["SparseCropDataset"],
        "datalist": ["build_datalist", "image_name"],
        "epoch_sampler": ["EpochSampler"],
        "label_checks": ["check_labels"],
        "resume": ["unfinished"],
    },
)
