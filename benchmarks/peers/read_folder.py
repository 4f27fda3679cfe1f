"""Load a model folder with nothing but released libraries, run stored inputs through it, and store what came out.

    python read_folder.py FOLDER INPUTS.safetensors OUTPUTS.safetensors [--weights] [--dequantize] [--auto]

The outputs are the tensors that the model returned, by name, and with --weights under "weight:MODULE" the weight of every
linear layer, rounded or not, as the reader has it. A JSON line on standard output tells what the loader found missing or left over; the
exit code is 1 if that is anything.
"""

import argparse
import json
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file


def main() -> int:
    """Read, run, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("inputs")
    parser.add_argument("outputs")
    parser.add_argument("--weights", action="store_true", help="store the weights of linear layers too")
    parser.add_argument("--dequantize", action="store_true", help="restore the weights while loading")
    parser.add_argument("--auto", action="store_true", help="load the base model, as AutoModel does")
    asked = parser.parse_args()
    assert "triptych" not in sys.modules
    config = transformers.AutoConfig.from_pretrained(asked.folder)
    loader = transformers.AutoModel if asked.auto else getattr(transformers, config.architectures[0])
    options = {}
    if asked.dequantize:
        options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
    model, info = loader.from_pretrained(asked.folder, output_loading_info=True, **options)
    model.eval()
    rounded = sum(hasattr(module, "quantization_scheme") for module in model.modules())
    torch.manual_seed(0)  # one family keeps a dropout in evaluation
    with torch.no_grad():
        returned = model(**load_file(asked.inputs), return_dict=True)
    found = {name: value for name, value in returned.items() if isinstance(value, torch.Tensor)}
    if asked.weights:
        layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        found |= {f"weight:{name}": module.weight for name, module in layers.items()}
    save_file({name: value.detach().clone().contiguous() for name, value in found.items()}, asked.outputs)
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value and key != "error_msgs"}
    print(json.dumps({"class": type(model).__name__, "rounded": rounded, "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
