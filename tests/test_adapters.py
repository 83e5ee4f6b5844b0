"""What other libraries hold in hand becomes frames, an mp4, and the base of our stages."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_video.adapters import as_frames, export_to_video, upsampled
from imagen_video.video import read_video

PROMPT = "a small cat"
VIDEO = torch.randint(0, 256, (4, 3, 8, 12), dtype=torch.uint8)
LAST = VIDEO.permute(0, 2, 3, 1).numpy()
IMAGES = [Image.fromarray(frame) for frame in LAST]


@pytest.mark.parametrize(
    "video",
    [
        IMAGES,
        [IMAGES],
        LAST,
        LAST[None],
        LAST / np.float32(255),
        list(LAST / 255.0),
        VIDEO,
        VIDEO[None] / 255,
        list(VIDEO),
        torch.from_numpy(LAST.copy()),
        (VIDEO / 255).half(),
    ],
    ids="images batch array batched float frames tensor floats tensors last half".split(),
)
def test_every_form_of_a_video_is_the_same_frames(video):
    assert torch.equal(as_frames(video), VIDEO)


def test_three_rows_leave_no_doubt():
    """Arrays have their channels last, tensors before the rows, as numpy and torch have them."""
    thin = torch.randint(0, 256, (2, 3, 8, 3), dtype=torch.uint8)
    assert torch.equal(as_frames(thin), thin)
    assert torch.equal(as_frames(thin.numpy()), thin.permute(0, 3, 1, 2))


def test_grey_and_transparent_images_are_rgb_on_white():
    grey, clear = Image.new("L", (4, 2), 7), Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    frames = as_frames([grey, clear])
    assert (frames[0] == 7).all() and (frames[1] == 255).all()


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ([], "at least one frame"),
        ([IMAGES, IMAGES], "2 videos came"),
        (np.zeros((2, 4, 8, 8, 3)), "2 videos came"),
        (VIDEO.float() / 127.5 - 1, r"map \[-1, 1\]"),
        (torch.full((1, 3, 4, 4), torch.nan), r"lie in \[0, 1\]"),
        (VIDEO.long(), "8-bit or float values, got torch.int64"),
        (VIDEO[:, :2], "RGB frames"),
        (VIDEO[0], "f x h x w x c, got torch.Tensor of shape"),
        ([IMAGES[0], IMAGES[1].resize((6, 4))], "have one size"),
        ("video.mp4", "a list of images"),
        (["a.png"], "a frame is a PIL image"),
    ],
)
def test_what_is_no_video_is_refused_with_the_way_out(video, message):
    with pytest.raises(ValueError, match=message):
        as_frames(video)


def test_an_export_has_the_size_rate_and_colours(tmp_path):
    plain = np.full((5, 16, 24, 3), (0.2, 0.6, 0.9), dtype=np.float32)
    clip = read_video(export_to_video(plain, tmp_path / "plain.mp4", fps=7.5))
    assert (clip.frames.shape, clip.fps) == ((5, 3, 16, 24), 7.5)
    assert (clip.frames.float() / 255 - as_frames(plain) / 255).abs().max() < 0.02


def test_frames_and_what_makes_them_go_through_our_stages(tiny):
    asked: list[str] = []

    def make(prompt: str) -> list[Image.Image]:
        asked.append(prompt)
        return IMAGES

    *_, made = upsampled(tiny, make, PROMPT, stages=["tsr3", "ssr3"], fps=5.0)
    *_, given = upsampled(tiny, LAST, PROMPT, stages=["tsr3", "ssr3"], fps=5.0)
    assert asked == [PROMPT]
    assert made.video is not None and torch.equal(made.video, given.video)
    assert (made.video.shape, made.fps) == ((8, 3, 16, 24), 10.0)


def text_to_video(folder):
    """ModelScope's text-to-video pipeline of diffusers in miniature, with random weights."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        TextToVideoSDPipeline,
        UNet3DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *(f"{letter}</w>" for letter in "acelmst")]
    words += list("acelmst")
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    unet = UNet3DConditionModel(
        sample_size=4,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        **sizes,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=8,
        **sizes,
    )
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )
    pipeline = TextToVideoSDPipeline(vae, CLIPTextModel(config), tokenizer, unet, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_diffusers_pipeline_is_the_base_of_our_stages(tiny, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries about each other
        pipeline = text_to_video(tmp_path)

        def make(prompt: str, kind: str = "np"):
            generator = torch.Generator().manual_seed(0)
            return pipeline(
                prompt, height=16, width=24, num_frames=3, num_inference_steps=2,
                output_type=kind, generator=generator,
            )  # fmt: skip

        outputs = [make(PROMPT, kind) for kind in ("np", "pil", "pt")]
        *_, last = upsampled(tiny, make, PROMPT, stages=["ssr3"])
    frames = [as_frames(output) for output in outputs]
    assert frames[0].shape == (3, 3, 16, 24) and frames[0].float().std() > 1
    assert all(torch.equal(other, frames[0]) for other in frames[1:])
    *_, direct = tiny.upscale(frames[0], PROMPT, stages=["ssr3"])
    assert last.video.shape == (3, 3, 32, 48) and torch.equal(last.video, direct.video)
