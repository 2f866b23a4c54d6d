"""Marks read by networks: rivaGan's own, and small models in the form of a user's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from imwatermark import WatermarkDecoder, WatermarkEncoder
from PIL import Image

from audit.errors import AuditError
from safety.watermarks.bch import Bch
from safety.watermarks.codecs import match
from safety.watermarks.presets import codec
from safety.watermarks.rivagan import RivaGan
from safety.watermarks.user_models import SCHEMAS, TrustMark, encoded, payload
from tests.safety.clean import photographs

KEY = "111010110101000001010111010011010100010000100111"
"""Of Stable Signature's published example."""


class Cells(torch.nn.Module):
    """Mean red of a grid's cells: an extractor whose bits are known."""

    def __init__(self, rows: int, columns: int, height: int, width: int) -> None:
        super().__init__()
        self.rows, self.columns, self.height, self.width = rows, columns, height, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] == self.height and x.shape[3] == self.width
        pooled = torch.nn.functional.adaptive_avg_pool2d(x[:, :1], (self.rows, self.columns))
        return pooled.flatten(1)


class Localised(torch.nn.Module):
    """Mask: the sign of red; each bit: the sign of green times the message's, at every place."""

    def __init__(self, bits: torch.Tensor) -> None:
        super().__init__()
        self.signs = torch.nn.Buffer(2.0 * bits.float() - 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        small = torch.nn.functional.adaptive_avg_pool2d(x, 32)
        bits = small[:, 1:2] * self.signs[None, :, None, None]
        return {"preds": torch.cat([small[:, :1], bits], 1)}


def _saved(module: torch.nn.Module, path: Path) -> str:
    torch.jit.script(module).save(path)
    return str(path)


def _grid(bits: np.ndarray, shape: tuple[int, int], size: tuple[int, int], low: int, high: int):
    cells = np.where(bits.reshape(shape), high, low).astype(np.uint8)
    return Image.fromarray(np.repeat(cells[..., None], 3, axis=2)).resize(
        size, Image.Resampling.NEAREST
    )


def _bits(text: str) -> np.ndarray:
    return np.array([digit == "1" for digit in text])


def test_rivagan_gives_the_pixels_and_bits_of_invisible_watermark() -> None:
    photo, mark = photographs()[0].resize((256, 256)), RivaGan("ours", b"riva")
    bgr = np.ascontiguousarray(np.asarray(photo)[:, :, ::-1])
    encoder = WatermarkEncoder()
    encoder.set_watermark("bytes", b"riva")
    encoder.loadModel()
    theirs = encoder.encode(bgr, "rivaGan")
    marked = mark.embed(photo)
    np.testing.assert_array_equal(np.asarray(marked), theirs[:, :, ::-1])
    read = mark.decode([marked])
    np.testing.assert_array_equal(
        read[0, 0], WatermarkDecoder("bits", 32).decode(theirs, "rivaGan").astype(bool)
    )
    np.testing.assert_array_equal(read[0, 0], mark.bits)
    with pytest.raises(AuditError, match="too small"):
        mark.decode([Image.new("RGB", (255, 256))])


def test_stable_signature_reads_images_of_their_own_size_with_imagenet_s_zero(
    tmp_path: Path,
) -> None:
    model = _saved(Cells(6, 8, 48, 96), tmp_path / "dec_48b_whit.torchscript.pt")
    settings = {"method": "stable-signature", "bits": KEY, "model": model, "allow_code": True}
    mark = codec(settings)
    # ImageNet's mean red is 0.485, 123.7 of 255: one step to either side is a bit.
    images = [_grid(_bits(KEY), (6, 8), (96, 48), 123, 124), Image.new("RGB", (96, 48))]
    images.append(_grid(~_bits(KEY), (6, 8), (96, 48), 0, 255))
    found = match(mark.decode(images), mark.bits)
    assert found.matches.tolist() == [48, 48 - int(_bits(KEY).sum()), 48]
    assert found.inverted.tolist()[::2] == [False, True]
    assert float(found.p[0]) == 2 * 2.0**-48
    with pytest.raises(AuditError, match="only the model's owner can set this mark"):
        mark.embed(images[0])
    short = codec({**settings, "bits": KEY[:32]})
    with pytest.raises(AuditError, match=r"gives 32 numbers, and dec_48b_whit.* gives 48"):
        short.decode(images[:1])


def test_watermark_anything_reads_its_bits_inside_the_mask_alone(tmp_path: Path) -> None:
    message = "01101000" * 4
    model = _saved(Localised(torch.tensor(_bits(message))), tmp_path / "wam.pt")
    mark = codec(
        {"method": "watermark-anything", "bits": message, "model": model, "allow_code": True}
    )
    # A quarter is marked (red) with a faint message (green); the rest says the opposite, loudly.
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[:256, :256] = (255, 120, 0)
    marked, clean = Image.fromarray(pixels), Image.new("RGB", (300, 200), (0, 255, 0))
    read = mark.decode([marked, clean])
    np.testing.assert_array_equal(read[0, 0], mark.bits)
    assert mark.mask_share([marked, clean]).tolist() == [0.25, 0.0]
    # Without a mask it is read everywhere, so that no message matches by itself.
    np.testing.assert_array_equal(read[1, 0], mark.bits)
    dark = mark.decode([Image.new("RGB", (64, 64))])
    np.testing.assert_array_equal(dark[0, 0], ~mark.bits)


@pytest.fixture(scope="module")
def trustmark(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _saved(Cells(10, 10, 245, 245), tmp_path_factory.mktemp("trustmark") / "decoder_Q.ts")


def _trustmark(model: str, bits: str = "", **more: object):
    settings = {"method": "trustmark", "model": model, "allow_code": True, **more}
    return codec(settings | ({"bits": bits} if bits else {}))


@pytest.mark.parametrize("version", SCHEMAS)
def test_trustmark_is_present_where_its_error_correction_finds_a_code_word(
    trustmark: str, version: int
) -> None:
    rng, schema = np.random.default_rng(version), SCHEMAS[version]
    data = rng.integers(0, 2, schema.data).astype(bool)
    raw = encoded(data)
    assert raw.shape == (100,)
    damaged = raw.copy()
    damaged[rng.choice(96, schema.code.t, replace=False)] ^= True
    mark = _trustmark(trustmark, "".join(map(str, data.astype(int))))
    images = [_grid(bits, (10, 10), (490, 490), 100, 160) for bits in (raw, damaged)]
    # Beyond 2 : 1 the middle square alone is read.
    wide = Image.new("RGB", (1600, 490))
    wide.paste(images[0], (555, 0))
    read = mark.decode([*images, wide])
    np.testing.assert_array_equal(read[:, 0], [raw, damaged, raw])
    assert mark.present(read).tolist() == [True] * 3
    for bits in read[:, 0]:
        found = payload(bits)
        assert found.version == version
        np.testing.assert_array_equal(found.data, data)
    assert match(read, mark.bits).matches.tolist() == [100, 100 - schema.code.t, 100]


def test_random_bits_pass_trustmark_s_check_as_often_as_its_note_says(trustmark: str) -> None:
    coins = np.random.default_rng(9).integers(0, 2, (3000, 1, 100)).astype(bool)
    mark = _trustmark(trustmark)
    assert isinstance(mark, TrustMark) and len(mark.bits) == 0
    passed = mark.present(coins)
    claims = coins[:, 0, -2] * 2 + coins[:, 0, -1]
    assert abs(passed.mean() - mark.chance) < 4 * np.sqrt(mark.chance / len(coins))
    for version, schema in SCHEMAS.items():
        chance = schema.code.chance(96 + schema.padding)
        own = passed[claims == version]
        assert abs(own.mean() - chance) <= 4 * np.sqrt(chance / len(own))
    assert f"{mark.chance:.1%}" in mark.note
    assert f"{SCHEMAS[3].code.chance(101):.1%}" in mark.note


def test_generators_are_those_of_the_published_table() -> None:
    """Lin and Costello 2004, appendix C, octal; 137 is x⁷ + x³ + 1."""
    five = ["211", "41567", "11554743", "3447023271", "624730022327"]
    three = ["130704476322273", "26230002166130115", "6255010713253127753"]
    table = dict(enumerate([*five, *three], start=1))
    for t, generator in table.items():
        assert oct(Bch(t).generator) == f"0o{generator}"
    assert [oct(Bch(t, 19).generator) for t in (2, 3)] == ["0o721", "0o2467"]


def test_up_to_t_errors_are_corrected_and_no_word_far_from_the_code_is() -> None:
    rng = np.random.default_rng(2)
    for t in (1, 2, 3, 5, 8):
        code = Bch(t)
        data = rng.integers(0, 2, 96 - code.check_bits).astype(bool)
        word = np.concatenate([data, code.checks(data)])
        for errors in range(t + 1):
            damaged = word.copy()
            damaged[rng.choice(96, errors, replace=False)] ^= True
            np.testing.assert_array_equal(code.corrected(damaged), word)
    # The words within two errors of the code (15, 7), and no others: 128 spheres of 121.
    code = Bch(2, 19)
    words = rng.integers(0, 2, (4000, 15)).astype(bool)
    decoded = np.mean([code.corrected(word) is not None for word in words])
    assert code.chance(15) == 121 / 256
    assert abs(decoded - 121 / 256) < 4 * np.sqrt(0.25 / len(words))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allow_code": False}, "trustmark: .* TorchScript program"),
        ({"model": "decoder_Q.ckpt"}, "holds pickled weights, which could run any code"),
        ({"model": "none.onnx"}, "no model file"),
        ({"variant": "X"}, "variants are Q, B, C, P"),
        ({"bits": "01"}, "payload has 40, 61, 68, 75 bits, not 2"),
        ({"variant": "P"}, "does not run on an input of 3 × 224 × 224"),
    ],
)
def test_what_a_model_cannot_do_is_one_clear_line(
    trustmark: str, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    settings = {"method": "trustmark", "model": trustmark, "allow_code": True, **change}
    if settings["model"] != trustmark:
        settings["model"] = str(tmp_path / str(settings["model"]))
        if settings["model"].endswith(".ckpt"):
            Path(settings["model"]).write_bytes(b"\x80\x04.")
    with pytest.raises(AuditError, match=message) as caught:
        codec(settings).decode([Image.new("RGB", (64, 64))])
    assert "\n" not in str(caught.value)
