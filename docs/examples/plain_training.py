"""A plain PyTorch training script: one process, one device."""

import argparse

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=3)
options.add_argument("--batch-size", type=int, default=96)
options.add_argument("--in-order", action="store_true", help="do not shuffle")
options.add_argument("--save", default="model.pt")
args = options.parse_args()

torch.manual_seed(0)
classes = torch.randint(0, 10, (2000,))
images = torch.randn(2000, 1, 16, 16) + torch.randn(10, 1, 16, 16)[classes]
loader = DataLoader(TensorDataset(images, classes), batch_size=args.batch_size, shuffle=not args.in_order)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16 * 4 * 4, 10)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)

for epoch in range(args.epochs):
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss of the last batch {loss.item():.3f}")

torch.save(model.state_dict(), args.save)
