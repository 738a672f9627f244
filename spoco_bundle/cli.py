"""The user's door: every command runs a config.

What can be refused is refused before torch and MONAI are loaded, which takes seconds: they are imported where a command
needs them.
"""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import fire
from fire import decorators
from fire.decorators import SetParseFns

from spoco_bundle import __version__
from spoco_bundle.app.arguments import (
    check_config_file,
    check_folder,
    check_number,
    check_switch,
    refuse_places,
    spelled_out,
)
from spoco_bundle.app.config import find_config, find_overlays, path_or_word, run_configs
from spoco_bundle.app.config_checks import ENDINGS, PATHS
from spoco_bundle.app.early_checks import check_early, readable_dimensions, weights_of
from spoco_bundle.app.model_config import model_overlay
from spoco_bundle.core.errors import SpocoError, one_line, user_error
from spoco_bundle.core.threads import prepare_threads
from spoco_bundle.dataset import build_datalist

# fire keeps its notes on a function under a public name, which its help would list as a command
decorators.FIRE_METADATA = "_fire_metadata"
AS_TYPED = SetParseFns(**dict.fromkeys((*PATHS, *ENDINGS), path_or_word))


class Spoco:
    """Find every object in your images after annotating only a few of them.

    Start with `spoco demo`. Then put your images and labels into a folder (train/NAME_raw.tif with
    train/NAME_label.tif, the same under val/), run `spoco train FOLDER`, and `spoco predict IMAGE`.
    """

    @SetParseFns(output=str)
    def demo(self, output: str = "demo", seed: int = 0) -> None:
        """Try everything on an artificial sample: train, segment, score, and draw a picture. Takes a few minutes.

        Args:
            output: folder for the sample, the model and the results.
            seed: another number makes another sample.
        """
        check_number("seed", seed, 0)
        check_folder(output)
        from spoco_bundle.dataset.synthetic import make_synthetic_sample
        from spoco_bundle.metrics import pool_scores

        folder = Path(output)
        data = folder / "data"
        print(f"1/4 making an artificial sample of crowded nuclei in {data}", flush=True)
        make_synthetic_sample(data, seed=seed)
        print("2/4 training from 25% of the annotated nuclei", flush=True)
        self.train(str(data), output=str(folder / "model"), config="demo", seed=seed, keep_seed=seed)
        print("3/4 segmenting the held-out volumes", flush=True)
        self.predict(str(data / "val"), output=str(folder / "results"), model=str(folder / "model"))
        print("4/4 comparing with the truth", flush=True)
        results = str(folder / "results")
        self.evaluate(str(data), output=results, model=str(folder / "model"), partly_labelled=False)
        classical = pool_scores([_classical_scores(pair) for pair in build_datalist(data, "val")])
        print(f"for comparison, Otsu threshold and watershed: AP at IoU 0.5 {classical['ap_50']:.2f}")

    @AS_TYPED
    @SetParseFns(dataset_dir=str, output=str, config=str)
    def train(
        self,
        dataset_dir: str,
        *,
        output: str = "model",
        config: str = "",
        resume: bool | str = False,
        **overrides: Any,
    ) -> None:
        """Train on a folder of images with a few annotated objects each; the images decide the settings.

        Args:
            dataset_dir: folder with train/NAME_raw.tif and train/NAME_label.tif (also .nii.gz), the same under val/;
                or a MONAI datalist JSON. In a label image 0 means "not annotated", each object has its own number.
            output: folder for the model; `spoco predict --model` takes it.
            config: extra settings: nonspatial, fine_tune (from the shipped weights), or a JSON file, such as one that
                `spoco plan` wrote; several with commas between.
            resume: go on where an interrupted training in the same output folder stopped; `--resume previous` goes on
                from the checkpoint before the last one, should that be damaged, `--resume FILE` from another one.
            overrides: any id of configs/train.json, such as --minutes 30, --spacing "[2.0,0.5,0.5]" or --tissue dense
                (for objects that wind through tissue without gaps, as neurons do).
        """
        refuse_places(overrides, ckpt_dir="--output", output_dir="--output")
        check_folder(output)
        files = [find_config("train"), *find_overlays(config)]
        splits = ("train#dataset#data#split", "validate#dataset#data#split")
        check_early(files, {"dataset_dir": dataset_dir, **overrides}, splits)
        from spoco_bundle.app.training import train

        train(dataset_dir, output, config, resume, **overrides)
        print(f"model in {Path(output) / 'model.pt'}")

    @AS_TYPED
    @SetParseFns(dataset_dir=str, output=str, config=str)
    def plan(self, dataset_dir: str, *, output: str = "plan.json", config: str = "", **overrides: Any) -> None:
        """Look at a training folder and say what `spoco train` would do with it, and why.

        Args:
            dataset_dir: folder with train/NAME_raw.tif and train/NAME_label.tif, as for training.
            output: the settings, to look at, to change, and to train with: `spoco train FOLDER --config plan.json`.
            config: extra settings as for `spoco train`.
            overrides: any id of configs/train.json; what depends on it follows.
        """
        check_config_file(output, dataset_dir)
        files = [find_config("train"), *find_overlays(config)]
        check_early(files, {"dataset_dir": dataset_dir, **overrides}, ("train#dataset#data#split",))
        from spoco_bundle.app.training_plan import plan_folder
        from spoco_bundle.core.atomic_files import write_json

        lines, ids = plan_folder(dataset_dir, config, **overrides)
        print("\n".join(lines))
        print(f"settings in {write_json(Path(output), ids)}")

    @AS_TYPED
    @SetParseFns(output=str, model=str, config=str, blockwise=str, max_memory=str)
    def predict(
        self,
        *input: str,
        output: str = "results",
        model: str = "",
        config: str = "",
        resume: bool = False,
        blockwise: str = "auto",
        max_memory: str = "",
        **overrides: Any,
    ) -> None:
        """Segment images, one, several or a folder of them, of any size.

        Args:
            input: an image, a folder, or a pattern such as "scans/*.tif", or several of them; an OME-Zarr image is a
                folder NAME.zarr.
            output: folder for NAME_instances (each object with its own number) and NAME_objects.csv (their sizes); or,
                for one image, NAME.ome.zarr.
            model: folder that `spoco train` wrote; by default the model that comes with the bundle.
            config: extra settings, a JSON file; a model folder brings its own.
            resume: leave out the images whose results, made by the same model and settings, lie in the output folder.
            blockwise: auto works block by block where an image does not fit into memory, and for OME-Zarr; True or
                False decides for all images. What was interrupted goes on when the same command is given again.
            max_memory: memory to stay below, such as 4GiB; by default what is free.
            overrides: any id of configs/inference.json or configs/inference_blockwise.json, such as --workers 4
                or --block_size "[128,256,256]".
        """
        refuse_places(overrides, dataset_dir="the image alone", output_dir="--output", ckpt_dir="--model")
        check_switch("resume", resume)
        is_named = output.rstrip("/").endswith(".zarr")
        if resume and is_named:
            raise SpocoError("--resume: a result with a name goes on when the same command comes again: leave it out")
        check_folder(output)
        if not input:
            raise SpocoError("no image: name an image, a folder or a pattern such as 'scans/*.tif'")
        images = input[0] if len(input) == 1 else list(input)
        bases = [*map(find_config, ("inference", "inference_blockwise"))]
        given = {"dataset_dir": images, **overrides}
        found = check_early([*bases, *find_overlays(config)], given, ("dataset#data#items#split",))
        dims = readable_dimensions([] if model else found, overrides)  # a model of one's own says it
        overlays = [*model_overlay(model, dims), *find_overlays(config)]
        overrides = {"dataset_dir": images, "output_dir": output, **weights_of(model, dims), **overrides}
        from spoco_bundle.app.light_monai import load_monai

        load_monai()
        from spoco_bundle.app.prediction_plan import plan_predictions
        from spoco_bundle.app.run_record import forget_outdated, write_run_record

        if is_named:
            overrides |= {"output_dir": str(Path(output).parent), "output": output}
        plans = plan_predictions(overlays, overrides, blockwise, max_memory or None)
        write_run_record("predict", [find_config("inference"), *overlays], overrides, overrides["output_dir"])
        if resume:
            forget_outdated([image for _, paths, _ in plans for image in paths], overrides["output_dir"])
        problems = []
        for names, paths, extra in plans:
            extra = extra | {"skip_finished": True} if resume else extra
            try:
                run_configs(
                    [*map(find_config, names), *overlays], {**overrides, "dataset_dir": paths, **extra}, "infer"
                )
            except SpocoError as error:
                problems.append(str(error))
        if problems:
            raise SpocoError("; ".join(problems))
        print(f"results in {Path(output)}")

    @AS_TYPED
    @SetParseFns(dataset_dir=str, output=str, model=str, config=str)
    def evaluate(
        self, dataset_dir: str, *, output: str = "results", model: str = "", config: str = "", **overrides: Any
    ) -> None:
        """Score a model on the images of a folder's val/ part.

        Args:
            dataset_dir: folder with val/NAME_raw.tif and val/NAME_label.tif, as for training.
            output: folder for scores.json, scores.csv and a picture of each image.
            model: folder that `spoco train` wrote; by default the model that comes with the bundle.
            config: extra settings, a JSON file; a model folder brings its own.
            overrides: any id of configs/train.json and configs/evaluate.json; --partly_labelled False where the truth
                holds every object.
        """
        refuse_places(overrides, output_dir="--output", ckpt_dir="--model")
        check_folder(output)
        given = {"dataset_dir": dataset_dir, "output_dir": output, **overrides}
        _run_on_annotated(["evaluate"], "validate#dataset#data#split", model, config, given)
        print(f"scores in {Path(output) / 'scores.json'}, pictures in {Path(output)}")

    @AS_TYPED
    @SetParseFns(dataset_dir=str, model=str, output=str, config=str)
    def tune(self, dataset_dir: str, *, model: str = "", output: str = "", config: str = "", **overrides: Any) -> None:
        """Choose the clustering parameters that fit your annotated objects best; a few of them suffice.

        Args:
            dataset_dir: folder with val/NAME_raw.tif and val/NAME_label.tif, as for training; --split train takes
                those of train/.
            model: folder that `spoco train` wrote; by default the model that comes with the bundle.
            output: overlay config to write, for `spoco predict --config`; by default tuned.json in the model's folder.
            config: extra settings, a JSON file; a model folder brings its own.
            overrides: any id of configs/train.json and configs/tune.json; --partly_labelled False where the truth holds
                every object.
        """
        refuse_places(overrides, tuned_file="--output", ckpt_dir="--model")
        tuned = Path(output or Path(model or ".") / "tuned.json")
        check_config_file(str(tuned), dataset_dir)
        given = {"dataset_dir": dataset_dir, "tuned_file": str(tuned), **overrides}
        _run_on_annotated(["evaluate", "tune"], "split", model, config, given)
        options = [*(["--model", model] if model else []), "--config", str(tuned)]
        print(f"settings in {tuned}; use them with `spoco predict IMAGES {shlex.join(options)}`")

    @AS_TYPED
    @SetParseFns(dataset_dir=str, output=str, config=str)
    def learning_curve(
        self,
        dataset_dir: str,
        *,
        minutes: float = 60,
        output: str = "learning_curve",
        config: str = "",
        **overrides: Any,
    ) -> None:
        """Will more labels help? Trains on parts of what you annotated, and says what twice as much is likely to give.

        Args:
            dataset_dir: folder as for `spoco train`; without val/ a quarter of the annotated objects is held out.
            minutes: of all trainings together, six or more of equal length.
            output: folder for learning_curve.json, a picture and the models; what was interrupted goes on there.
            config: extra settings as for `spoco train`.
            overrides: any id of configs/train.json, such as --pretrained FILE.
        """
        refuse_places(overrides, ckpt_dir="--output", output_dir="--output")
        check_folder(output)
        files = [find_config("train"), find_config("learning_curve"), *find_overlays(config)]
        splits = ("train#dataset#data#split", "validate#dataset#data#split")
        check_early(files, {"dataset_dir": dataset_dir, "minutes": minutes, **overrides}, splits)
        from spoco_bundle.app.learning_curve import learning_curve

        print("\n".join(learning_curve(dataset_dir, minutes, output, config, **overrides).lines()))
        print(f"numbers in {Path(output) / 'learning_curve.json'}, picture in {Path(output) / 'learning_curve.png'}")

    @SetParseFns(folder=str, output=str, truth=str)
    def report(
        self,
        folder: str = "results",
        *,
        output: str = "",
        truth: str = "",
        embeddings: bool = True,
        max_images: int = 4,
        max_megabytes: float = 4.5,
    ) -> None:
        """Make one page to look at and to pass on: slices with outlines, objects, sizes, training curves, settings.

        Args:
            folder: what `spoco predict` or `spoco train` wrote: a folder, or a Zarr result.
            output: the HTML file, by default report.html in the folder; PNG copies of the pictures go beside it.
            truth: folder of label images NAME_label or NAME with every object annotated, to compare with.
            embeddings: also show the embedding in colours; runs the network on a few slices.
            max_images: images shown.
            max_megabytes: size that the page stays below; more slices fit into more.
        """
        check_switch("embeddings", embeddings)
        check_number("max_images", max_images, 1)
        check_number("max_megabytes", max_megabytes, 0, (int, float))
        from spoco_bundle.app.run_report import write_report

        page = write_report(folder, output or None, truth or None, embeddings, max_images, max_megabytes)
        print(f"report in {page}")

    @AS_TYPED
    @SetParseFns(
        studies=str, output=str, model=str, config=str, environment=str, host=str, names=str, origins=str, token=str
    )
    def label(
        self,
        studies: str,
        *,
        output: str = "label_server",
        model: str = "",
        config: str = "",
        port: int = 8000,
        random_weights: bool = False,
        environment: str = "",
        host: str = "127.0.0.1",
        names: str = "",
        origins: str = "",
        token: str = "",
        **overrides: Any,
    ) -> None:
        """Annotate in 3D Slicer or QuPath, train on what you annotated, predict, correct: starts a MONAI Label server.

        Args:
            studies: folder of the images; labels and predictions are kept in it.
            output: folder for the server's app, its weights and, once, its environment of some 4 GB.
            model: folder that `spoco train` wrote, to start from; by default the model that comes with the bundle.
            config: extra settings, a JSON file; a model folder brings its own.
            port: of the server.
            random_weights: start from nothing, not from a model.
            environment: folder of a server environment that another output folder has built.
            host: address to listen on; by default only this machine reaches the server. 0.0.0.0 is every address.
            names: further names by which the server is reached, such as lab-pc.example.org, with commas between.
            origins: web pages of other servers that may ask, such as http://viewer.example.org, with commas between.
            token: what clients have to send; SPOCO_LABEL_TOKEN in the environment does the same, out of others' sight.
            overrides: any id of configs/train.json, such as --spacing "[2.0,0.5,0.5]" or --iterations_per_epoch 100.
        """
        from spoco_bundle.label.server import Door, run_server

        check_switch("random_weights", random_weights)
        check_number("port", port, 1)
        home = Path(environment) if environment else Path(output) / "environment"
        door = Door(port, host, _separated(names), _separated(origins), token)
        overlays = tuple(find_overlays(config))
        run_server(Path(studies), Path(output), home, door, model, random_weights, overlays, overrides)


def _classical_scores(pair: dict[str, str]) -> dict[str, float]:
    from spoco_bundle.formats import read_image
    from spoco_bundle.metrics import instance_scores
    from spoco_bundle.report.classical import otsu_watershed

    image, label = read_image(pair["image"]), read_image(pair["label"], "label")
    return instance_scores(label.array[0], otsu_watershed(image.array[0], image.spacing))


def _separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _run_on_annotated(names: list[str], split: str, model: str, config: str, given: dict[str, Any]) -> None:
    """Runs overlays of ``train.json`` on annotated images, with a model; ``split`` is the id that says which."""
    base, *more = [find_config("train"), *map(find_config, names), *find_overlays(config)]
    found = check_early([base, *more], given, (split,))
    dims = readable_dimensions([] if model else found, given)  # a model of one's own says it
    run_configs([base, *model_overlay(model, dims), *more], {**weights_of(model, dims), **given}, "train")


def main() -> None:
    """Entry point of the console script ``spoco``: exit code 2 and one line for what the user can mend."""
    if sys.argv[1:] == ["--version"]:
        print(f"spoco {__version__}")
        return
    prepare_threads()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("matplotlib", "monai", "monai.bundle.workflows"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # it logs every error that ends a run, as the last line does
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        fire.Fire(Spoco(), command=spelled_out(sys.argv[1:], Spoco), name="spoco")
    except Exception as error:
        mendable = user_error(error)
        if mendable is None:
            raise
        print(one_line(mendable), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
