"""Makes the files beside it: `python make.py` with torch installed. See README.md."""
# mypy: ignore-errors

import hashlib
import json
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent
DTYPES = {
    torch.bfloat16: "BF16",
    torch.bool: "BOOL",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.uint16: "U16",
}


class Net(nn.Module):
    """Two layers, one of them with buffers, and one weight under two names."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
        self.tied = nn.Linear(3, 4, bias=False)
        self.tied.weight = self.body[0].weight
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.stride = torch.tensor([8.0])

    def forward(self, x):
        return self.body(x)


def facts(tensors):
    """What is expected of each tensor: dtype, shape and digest of its bytes."""
    found = {}
    for name, tensor in tensors.items():
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found[name] = [DTYPES[tensor.dtype], list(tensor.shape), hashlib.sha256(data).hexdigest()]
    return found


def main():
    """Write the files and what is expected of them."""
    torch.manual_seed(7)
    net = Net()
    state = net.state_dict()
    optimizer = torch.optim.Adam(net.body[0].parameters())
    net(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    mixed = {
        "half": torch.randn(2, 3).half(),
        "brain": torch.randn(3).bfloat16(),
        "small": torch.randn(4).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(5),
        "flags": torch.tensor([True, False]),
        "unsigned": torch.tensor([1, 2], dtype=torch.uint16),
        "empty": torch.empty(0, 3),
    }
    once = {name: tensor for name, tensor in state.items() if name != "tied.weight"}
    adam = optimizer.state_dict()["state"][0]
    expected = {
        "state_dict.pt": facts(once),
        "mixed.pt": facts(mixed),
        "module.pt": facts(once),
        "training.pt": facts({f"model.{name}": tensor for name, tensor in once.items()})
        | facts({f"optimizer.state.0.{name}": tensor for name, tensor in adam.items()}),
    }
    views = {"transposed": torch.randn(3, 4).t(), "column": torch.randn(3, 4)[:, 1]}
    torch.save({"state_dict": state, "epoch": 3}, HERE / "state_dict.pt")
    torch.save(mixed | views, HERE / "mixed.pt")
    torch.save({"model": None, "ema": net, "epoch": 3}, HERE / "module.pt")
    torch.save({"model": state, "optimizer": optimizer.state_dict()}, HERE / "training.pt")
    torch.save({"w": torch.ones(2)}, HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
