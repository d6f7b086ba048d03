"""Every setting of the lesion classifier, with its default; configs/classifier*.yaml hold what differs."""

from __future__ import annotations

from detectron2.config import CfgNode

from lesionseg.config import add_lesion_config


def classifier_cfg() -> CfgNode:
    """The classifier's cfg: CLASSIFIER below, and of LESION the augmentation (AUG) and the arithmetic (BF16)."""
    cfg = CfgNode()
    cfg.VERSION = 2  # Detectron2's merge_from_file asks for it
    everything = CfgNode()
    add_lesion_config(everything)
    cfg.LESION = CfgNode({"AUG": everything.LESION.AUG, "BF16": everything.LESION.BF16})
    # Crops are cut around the lesion already, and hair on a small crop hides much of it.
    cfg.LESION.AUG.HAIR = 0.1

    cfg.OUTPUT_DIR = "output/classifier"
    # "cuda", "cuda:1", "cpu"; the CPU is taken where there is no CUDA.
    cfg.DEVICE = "cuda"
    # Two runs with the same seed, settings and data give the same network on the same machine.
    cfg.SEED = 42

    node = cfg.CLASSIFIER = CfgNode()
    # Folders of tools/export_crops.py. Crops are trained on, chosen by and tested on by their split.
    node.CROPS = ()
    # "diagnosis": every diagnosis of the training crops is a class; "benign-malignant"; "isic2017": melanoma,
    # seborrheic keratosis, nevus. Crops without such a label are left out, and counted in the log.
    node.LABELS = "diagnosis"
    # What is trained and then used: "network" on the crop, "features" (ABCD measurements), or "combined".
    node.ROUTE = "combined"

    # A classification network of torchvision by its name (resnet18, resnet50, efficientnet_b0, convnext_tiny ...), or
    # "resnet10", a ResNet with one block a stage for training from scratch on a CPU.
    node.ARCH = "resnet50"
    # "imagenet": torchvision's weights, downloaded once (from scratch, with a warning, where that fails);
    # "": from scratch; or a file with weights of the same architecture, such as network_best.pth of another run.
    node.WEIGHTS = "imagenet"
    # Side of the network's input in px; crops are scaled to it.
    node.INPUT_SIZE = 224

    # Stage 1 trains the last layer on frozen, pretrained ones, at LR; it is left out from scratch.
    node.HEAD_EPOCHS = 3
    # Stage 2 trains everything, after stage 1 at LR * ALL_LR_FACTOR.
    node.EPOCHS = 30
    node.LR = 1e-3
    node.ALL_LR_FACTOR = 0.1
    # The learning rate rises over the first epoch of a stage and falls to 0 along a cosine by its end.
    node.WEIGHT_DECAY = 0.05
    node.BATCH_SIZE = 32
    # End stage 2 after so many epochs without a better balanced accuracy on the validation crops; 0 never does.
    node.PATIENCE = 10
    # Processes that read and augment crops, no more than there are cores; 0 does it in the training process.
    node.WORKERS = 4

    # Share of the validation crops on which the classifier may say "uncertain": the least sure ones.
    node.ABSTAIN_SHARE = 0.1
    return cfg
