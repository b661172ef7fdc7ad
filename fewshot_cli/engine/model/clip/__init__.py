"""Two-tower backbones, CLIP and its kin: one tower for pictures, one for texts."""
