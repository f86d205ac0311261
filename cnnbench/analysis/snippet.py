"""A setting as plain PyTorch: a program that trains the model that way, and runs as printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.architectures import is_frozen
from cnnbench.cell import parse_call

if TYPE_CHECKING:
    from cnnbench.cell import Cell

NUM_STEPS = 10
DTYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16"}
OPTIMIZERS = {
    "adam": "torch.optim.Adam(parameters, lr={lr}, weight_decay={decay}, fused=True)",
    "adamw": "torch.optim.AdamW(parameters, lr={lr}, weight_decay={decay}, fused=True)",
    "sgd": (
        "torch.optim.SGD(parameters, lr={lr}, momentum=0.9, nesterov=True,"
        " weight_decay={decay}, fused=True)"
    ),
}
# What is recomputed as one, as `checkpointing.find_segments` finds it; `net` is the model.
_RESNET_STAGES = "net.stage1, net.stage2, net.stage3, net.stage4"
_TORCHVISION_STAGES = "net.layer1, net.layer2, net.layer3, net.layer4"
SEGMENTS = {
    ("resnet", "block"): (
        f"[net.stem], *([block] for stage in ({_RESNET_STAGES}) for block in stage)"
    ),
    ("resnet", "stage"): ("[net.stem, *net.stage1], [*net.stage2], [*net.stage3], [*net.stage4]"),
    ("mbconv_net", "block"): (
        "[net.stem], *([block] for stage in net.stages for block in stage), [net.head]"
    ),
    ("mbconv_net", "stage"): (
        "[net.stem, *net.stages[0], *net.stages[1]], [*net.stages[2]],"
        " [*net.stages[3], *net.stages[4]], [*net.stages[5], *net.stages[6], net.head]"
    ),
    ("transfer_resnet50", "block"): (
        f"*([block] for stage in ({_TORCHVISION_STAGES}) for block in stage),"
    ),
    ("transfer_resnet50", "stage"): "[*net.layer1], [*net.layer2], [*net.layer3], [*net.layer4]",
}

_RECOMPUTE = '''

class FrozenStatistics:
    """While modules are recomputed, BatchNorm must not count the same batch a second time."""

    def __init__(self, modules):
        kind = nn.modules.batchnorm._BatchNorm
        self.norms = [m for one in modules for m in one.modules() if isinstance(m, kind)]

    def __enter__(self):
        self.kept = [(norm, dict(norm.named_buffers())) for norm in self.norms]
        for norm, buffers in self.kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer.clone())

    def __exit__(self, *_):
        for norm, buffers in self.kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


def recompute(run, *modules):
    """Return `run` so that it keeps its input alone and computes the rest again when it is needed."""
    {contexts}
    return partial(checkpoint, run, use_reentrant=False, preserve_rng_state={random}{context_fn})
'''
_CHAIN = '''

def recompute_chain(first, *rest):
    """Recompute modules that run one after the other as one: the later ones pass their input on."""
    forwards = [module.forward for module in (first, *rest)]

    def run(x):
        for forward in forwards:
            x = forward(x)
        return x

    first.forward = recompute(run, first, *rest)
    for module in rest:
        module.forward = lambda x: x
'''
_STEP = """

def step(images, labels):
    optimizer.zero_grad(set_to_none=True)
{forward}
{backward}
    return loss
"""
_GRAPH = """
# The whole step as one CUDA graph: captured once, then replayed on images and labels in these places.
static_images, static_labels = batch()
stream = torch.cuda.Stream()
stream.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(stream):
    for _ in range(3):
        step(static_images, static_labels)
torch.cuda.current_stream().wait_stream(stream)
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    static_loss = step(static_images, static_labels)


def step(images, labels):
    static_images.copy_(images)
    static_labels.copy_(labels)
    graph.replay()
    return static_loss

"""


def snippet(cell: Cell) -> str:
    """Return the program. The model is built by cnnbench, all around it is PyTorch's own.

    Its names `batch` and `step` give a batch of images and labels, and train on one.
    """
    return "".join(
        (
            _head(cell),
            _recomputing(cell),
            _model(cell),
            _batch(cell),
            _step(cell),
            _GRAPH if cell.compile == "graph" else "\n",
            _loop(),
        )
    )


def _is_recomputed(cell: Cell) -> bool:
    return cell.checkpointing != "none" and not is_frozen(cell.architecture)


def _is_known(cell: Cell) -> bool:
    name, _ = parse_call(cell.architecture)
    if name == "simple_cnn":
        return cell.checkpointing != "activations"
    return (name, cell.checkpointing) in SEGMENTS


def _head(cell: Cell) -> str:
    lines = [f"# {cell.name}, {cell.dataset}: as cnnbench measured it."]
    wraps = _is_recomputed(cell) and _is_known(cell)
    if wraps:
        names = "nullcontext" if cell.compile == "off" else ""
        lines += [f"from contextlib import {names}"] if names else []
        lines += ["from functools import partial"]
    lines += ["", "import torch", "from torch import nn"] if wraps else ["", "import torch"]
    lines += ["from torch.nn import functional"]
    lines += ["from torch.utils.checkpoint import checkpoint"] if wraps else []
    lines += ["", "import cnnbench", ""]
    lines += ['device = torch.device("cuda" if torch.cuda.is_available() else "cpu")']
    tf32 = cell.precision == "tf32"
    note = "" if tf32 else "  # IEEE fp32 where nothing else is said"
    lines += [f'torch.set_float32_matmul_precision("{"high" if tf32 else "highest"}"){note}']
    lines += [f"torch.backends.cudnn.allow_tf32 = {tf32}", "torch.backends.cudnn.benchmark = True"]
    return "\n".join(lines) + "\n"


def _recomputing(cell: Cell) -> str:
    if not (_is_recomputed(cell) and _is_known(cell)):
        return ""
    plain = cell.compile in {"off", "graph"}
    contexts = "contexts = lambda: (nullcontext(), FrozenStatistics(modules))"
    text = _RECOMPUTE if plain else _RECOMPUTE[_RECOMPUTE.index("\n\ndef recompute(") :]
    # A compiler traces a segment once and keeps its statistics right by itself.
    text = text.replace("    {contexts}\n", f"    {contexts}\n" if plain else "")
    text = text.replace("{random}", str(bool(cell.recipe.dropout)))
    text = text.replace("{context_fn}", ", context_fn=contexts" if plain else "")
    return text + (_CHAIN if (parse_call(cell.architecture)[0]) != "simple_cnn" else "") + "\n"


def _model(cell: Cell) -> str:
    recipe = cell.recipe
    weights = "" if recipe.weights in {"default", "none"} else f", weights={recipe.weights!r}"
    lines = [
        "",
        "# Put your own model here"
        + (", and its blocks below." if _is_recomputed(cell) and _is_known(cell) else "."),
        (
            f"model = cnnbench.build({cell.architecture!r}, num_classes={recipe.num_classes or 10},"
            f" image_size={recipe.image_size or 32}{weights})"
        ),
        f"model = model.to(device{_layout(cell, ', ')}).train()",
        *_dropout(cell),
        *_wrapping(cell),
    ]
    if cell.compile not in {"off", "graph"}:
        lines.append(f"model.compile(mode={cell.compile!r})")
    made = OPTIMIZERS[recipe.optimizer].format(lr=recipe.learning_rate, decay=recipe.weight_decay)
    if cell.compile == "graph":
        made = made.replace("fused=True", "fused=True, capturable=True")
        made = made if recipe.optimizer != "sgd" else made.replace(", capturable=True", "")
    lines += ["parameters = [p for p in model.parameters() if p.requires_grad]"]
    lines += [f"optimizer = {made}"]
    if cell.precision == "fp16":
        lines.append("scaler = torch.amp.GradScaler(device.type)  # small gradients would become 0")
        lines += _ZERO_MOMENTUM if recipe.optimizer == "sgd" else []
    return "\n".join(lines) + "\n"


_ZERO_MOMENTUM = (
    "for p in parameters:  # or an overflow in the first step leaves it as the memory happens to be",
    '    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)',
)


def _dropout(cell: Cell) -> list[str]:
    if not cell.recipe.dropout:
        return []
    return [
        "# Dropout before the last linear layer.",
        "name, last = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)][-1]",
        f"model.set_submodule(name, torch.nn.Sequential(torch.nn.Dropout({cell.recipe.dropout}), last))",
    ]


def _wrapping(cell: Cell) -> list[str]:
    name, _ = parse_call(cell.architecture)
    size = cell.recipe.image_size or 32
    if cell.checkpointing == "none":
        return []
    if not _is_recomputed(cell):
        return ["# Nothing to recompute: a frozen trunk keeps no activations."]
    if not _is_known(cell):
        return [
            "# Finds the model's own blocks; PyTorch alone would have to be told them by hand.",
            "from cnnbench.checkpointing import apply_checkpointing",
            "",
            f"example = torch.zeros(2, 3, {size}, {size}, device=device)",
            f"apply_checkpointing(model, {cell.checkpointing!r}, example)",
        ]
    if name == "simple_cnn":
        return [
            'for name in ("stage1", "stage2"):',
            "    setattr(model, name, recompute(getattr(model, name), model))",
        ]
    net = "model.model" if name == "transfer_resnet50" else "model"
    segments = SEGMENTS[name, cell.checkpointing].replace("net.", f"{net}.")
    return [f"for modules in ({segments}):", "    recompute_chain(*modules)"]


def _layout(cell: Cell, before: str) -> str:
    if cell.memory_format == "nchw":
        return ""
    return f"{before}memory_format=torch.channels_last"


def _batch(cell: Cell) -> str:
    size, classes = cell.recipe.image_size or 32, cell.recipe.num_classes or 10
    layout = f".contiguous({_layout(cell, '')})" if cell.memory_format != "nchw" else ""
    return f"""

# Put your own data here: images as bytes on the device, brought to batches of float there.
pixels = torch.randint(256, (2048, 3, {size}, {size}), dtype=torch.uint8, device=device)
targets = torch.randint({classes}, (2048,), device=device)


def batch():
    index = torch.randint(len(pixels), ({cell.batch_size},), device=device)
    images = pixels[index].float().mul(1 / 255).sub_(0.5)
    return images{layout}, targets[index]
"""


def _step(cell: Cell) -> str:
    smoothing = cell.recipe.label_smoothing
    extra = f", label_smoothing={smoothing}" if smoothing else ""
    forward = f"loss = functional.cross_entropy(model(images), labels{extra})"
    if cell.precision in DTYPES:
        context = f"with torch.autocast(device.type, dtype={DTYPES[cell.precision]}):"
        forward = f"{context}\n        {forward}"
    backward = ["loss.backward()", "optimizer.step()"]
    if cell.precision == "fp16":
        backward = ["scaler.scale(loss).backward()", "scaler.step(optimizer)", "scaler.update()"]
    return _STEP.format(
        forward=f"    {forward}", backward="\n".join(f"    {line}" for line in backward)
    )


def _loop() -> str:
    return f"""
for _ in range({NUM_STEPS}):
    loss = step(*batch())
print(f"loss {{loss.item():.3f}}")
"""
