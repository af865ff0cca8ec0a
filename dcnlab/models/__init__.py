"""The paper's networks, as plain nn.Modules built from torchvision's parts."""
