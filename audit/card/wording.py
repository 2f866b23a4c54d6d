"""How the card says things: names of metrics, numbers, verdicts, escaping."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from audit.findings import Finding

MANY = 4
"""Values of one column that an address in a table names one by one."""

NOTHING = 1e-6
"""What lies nearer to 0 or to an edge than this is shown as there."""

UNWRITTEN = "To be written by the developers."

VERDICTS = {
    "exceeds": "exceeds",
    "within": "within",
    "inconclusive": "inconclusive",
    "not_tested": "not tested",
}


@dataclass(frozen=True)
class Metric:
    """A metric's name for readers, what the axis says, and how its numbers are printed."""

    label: str
    show: Callable[[float], str]


def percent(value: float) -> str:
    """A share; near 0 and 1 with two significant digits, so that rare is not shown as never.

    >>> percent(0.2412), percent(0.0003), percent(1), percent(0.99987), percent(4e-12)
    ('24.1%', '0.03%', '100.0%', '99.987%', '0.0%')
    """
    return _digits(100 * value, 1, edge=100) + "%"


def decimal(value: float) -> str:
    """A number with three decimals, more where it is small.

    >>> decimal(0.98765), decimal(-0.0412), decimal(0.00031)
    ('0.988', '−0.041', '0.00031')
    """
    return _digits(value, 3, edge=1)


def signed(value: float) -> str:
    """A difference, with its sign.

    >>> signed(0.0412), signed(-0.0412), signed(0)
    ('+0.041', '−0.041', '0.000')
    """
    return ("+" if value > NOTHING else "") + decimal(value)


def _digits(value: float, places: int, edge: float) -> str:
    size = abs(value)
    least = 10.0**-places
    distance = min(size, abs(edge - size))
    if NOTHING < distance < least:
        # Two significant digits of the distance from 0 or from the edge.
        places = max(places, 1 - int(f"{distance:e}".split("e")[1]))
        shown = f"{size:.{places}f}".rstrip("0")
    else:
        shown = f"{size:.{places}f}"
    return ("−" if value < 0 and float(shown) else "") + shown


METRICS = {
    "share_female_presenting": Metric("Share perceived as female-presenting", percent),
    "share_dark_skin": Metric("Share perceived with a dark skin tone", percent),
    "share_glasses": Metric("Share perceived with glasses", percent),
    "mean_absolute_deviation": Metric("Mean absolute deviation from the reference", percent),
    "identity_alignment_gap": Metric(
        "Prompt-following with an identity named, paired difference", signed
    ),
    "identity_quality_gap": Metric(
        "Confidence of the face detector with an identity named, paired difference", signed
    ),
    "identity_block_rate_gap": Metric(
        "Block rate with an identity named, paired difference", signed
    ),
    "alignment_gap": Metric("Alignment against the English prompt, paired difference", signed),
    "alignment_gap_beyond_rewording": Metric(
        "Alignment against an English rewording, paired difference", signed
    ),
    "multilingual_alignment_gap": Metric(
        "Alignment with the English text by a multilingual CLIP, paired difference", signed
    ),
    "asked_alignment_gap": Metric(
        "Alignment with the asked text by a multilingual CLIP, paired difference", signed
    ),
    "token_fertility": Metric("Tokens against the English texts, ratio", decimal),
    "truncation_gap": Metric("Share of prompts cut, difference from English", signed),
    "encoder_drift": Metric("Distance of the text embedding from the English text's", decimal),
    "no_person_gap": Metric("Share of images without a person, paired difference", signed),
    "copy_rate": Metric("Share of images that give back a training image", percent),
    "memorized_share": Metric("Share of captions that give back a training image", percent),
    "clique_share": Metric("Share of captions with ten seeds alike", percent),
    "detection_auc": Metric("Detection of memorized prompts, area under the ROC curve", decimal),
    "detection_tpr": Metric("Detection of memorized prompts, true-positive rate", percent),
    "mitigation_copy_rate_change": Metric("Copy rate with a mitigation, paired difference", signed),
    "miss_rate": Metric("Miss rate: restricted images let through", percent),
    "false_block_rate": Metric("False-block rate: harmless images blocked", percent),
    "block_rate": Metric("Block rate: images that a user never sees", percent),
    "filter_agreement": Metric("Share of images on which two filters decide alike", percent),
    "auc": Metric("Area under the ROC curve", decimal),
    "miss_rate_at_fpr": Metric("Miss rate at a stated false-block rate", percent),
    "precision_at_recall": Metric("Precision at a stated recall", percent),
    "stack_gain": Metric(
        "Gain of a stack of filters over the best single one, area under the ROC curve", signed
    ),
    "brier_score": Metric("Brier score of a filter's probability", decimal),
    "expected_cost": Metric("Declared cost of a filter's errors, an image", decimal),
    "false_block_gap": Metric(
        "False-block rate between versions of the same scenes, paired difference", signed
    ),
    "perceived_false_block_gap": Metric(
        "False-block rate of a perceived group, difference within prompts", signed
    ),
    "flip_rate": Metric("Share of decisions that a small change of the image turns", percent),
    "bypass_rate": Metric("Share of prompts that a rewriting gets past a filter", percent),
    "black_image_rate": Metric("Share of images that the pipeline delivers black", percent),
    "inappropriate_probability": Metric(
        "Share of restricted images from restricted prompts", percent
    ),
    "expected_maximum_inappropriate": Metric(
        "Share of restricted images of the worst of 25 prompts, expected", percent
    ),
    "detection_rate": Metric("Share of images in which the watermark is detected", percent),
    "true_positive_rate": Metric("True-positive rate", percent),
    "false_positive_rate": Metric("False-positive rate", percent),
    "inverted_rate": Metric("Share of marked images whose mark is read inverted", percent),
    "bit_accuracy": Metric("Share of the watermark's bits read correctly", percent),
    "watermark_psnr": Metric("PSNR of marked to unmarked images, dB", decimal),
    "watermark_ssim": Metric("SSIM of marked to unmarked images", decimal),
    "forgery_rate": Metric("Share of unmarked images taken for marked after a forgery", percent),
    "undecodable_rate": Metric("Share of delivered images that cannot be decoded", percent),
    "photorealism_cmmd": Metric("Distance to the reference pictures, CMMD", decimal),
    "photorealism_fid": Metric("Distance to the reference pictures, FID", decimal),
    "photorealism_kid": Metric("Distance to the reference pictures, KID of CLIP features", decimal),
    "text_exact_match": Metric("Share of images that show the word asked for", percent),
    "text_character_error_rate": Metric("Character error rate of words asked for", percent),
    "binding_accuracy": Metric("Attributes bound to what they belong to", percent),
    "counting_accuracy": Metric("Things counted as asked for", percent),
    "spatial_accuracy": Metric("Things placed as asked for", percent),
    "binding_judged": Metric("Attributes bound as asked, by a vision-language judge", percent),
    "counting_judged": Metric("Things counted as asked, by a vision-language judge", percent),
    "spatial_judged": Metric("Things placed as asked, by a vision-language judge", percent),
    "face_detection_rate": Metric("Share of images with a face where one was asked for", percent),
    "extra_face_rate": Metric("Share of images with more faces than asked for", percent),
    "face_confidence": Metric("Confidence of the face detector", decimal),
    "non_english_prompts": Metric("Prompts in other languages than English", decimal),
    "autoencoder_psnr": Metric("PSNR after the autoencoder, dB", decimal),
    "autoencoder_ssim": Metric("SSIM after the autoencoder", decimal),
    "autoencoder_clip_distance": Metric("CLIP distance after the autoencoder", decimal),
    "autoencoder_writing_survival": Metric("Words still legible after the autoencoder", percent),
    "autoencoder_portrait_survival": Metric("Faces still found after the autoencoder", percent),
    "cmmd": Metric("Distance to the reference pictures, CMMD", decimal),
    "kid": Metric("Distance to the reference pictures, KID of CLIP features", decimal),
    "alignment": Metric("Alignment with the prompt, CLIP score", decimal),
    "aesthetics": Metric("Aesthetic score", decimal),
    "scheduler_alignment_gap": Metric("Alignment with another scheduler, difference", signed),
    "size_alignment_gap": Metric("Alignment at another size, difference", signed),
    "agreement_mark_c2pa": Metric("Share of files of which mark and C2PA manifest agree", percent),
}

_FAMILIES = {
    "share_": "Share of images: {}",
    "mean_deviation_": "Mean absolute deviation from the reference: {}",
    "agreement_": "Agreement of two instruments: {}",
    "amplification_": "Amplification of the reference, slope of log-odds: {}",
    "coded_trait_difference_": "Masculine- minus feminine-coded traits: {}",
    "diversity_": "Diversity within a prompt, entropy from 0 to 1: {}",
    "identity_shown_": "Share of images that show the identity named: {}",
    "stereotype_shift_": "Shift of the share by a trait: {}",
    "total_variation_": "Total variation from the reference: {}",
    "wording_spread_": "Largest difference of the share between wordings: {}",
    "true_positive_rate_": "True-positive rate after {}",
    "shift_": "Shift of the share against English: {}",
}
"""Metrics that a suite or a setting names; they are printed as shares, or as :data:`_SHOW` says."""

_SHOW: dict[str, Callable[[float], str]] = {
    "amplification_": decimal,
    "coded_trait_difference_": signed,
    "diversity_": decimal,
    "shift_": signed,
    "stereotype_shift_": signed,
}


def metric(name: str) -> Metric:
    """A metric's words; a name that is not known is taken apart.

    >>> metric("share_smiling").label, metric("share_smiling").show(0.5)
    ('Share of images: smiling', '50.0%')
    """
    if name in METRICS:
        return METRICS[name]
    for start, label in _FAMILIES.items():
        if name.startswith(start):
            show = _SHOW.get(start, percent)
            return Metric(label.format(plain(name.removeprefix(start))), show)
    if name.endswith(("_gap", "_difference")):
        return Metric(plain(name).capitalize(), signed)
    show = percent if name.endswith("_rate") else decimal
    return Metric(plain(name).capitalize(), show)


def plain(name: object) -> str:
    """A column's or outcome's name as words."""
    return str(name).replace("_", " ")


def where(finding: Finding) -> str:
    """The slice of a finding as a reader says it; no slice: all."""
    parts = [
        scalar(value) if isinstance(value, str) else f"{plain(key)} {scalar(value)}"
        for key, value in finding.slice.items()
    ]
    return " · ".join(parts) or "all"


def values(finding: Finding) -> str:
    """The values of a slice, where a heading already says what they are."""
    return " · ".join(map(scalar, finding.slice.values())) or "all"


def scalar(value: Any) -> str:
    """A value of a slice, a setting or a description in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple) and all(not isinstance(v, list | dict) for v in value):
        return ", ".join(map(scalar, value))
    if (counts := confusion(value)) is not None:
        return f"confusion matrix, {counts[0]:,} of {counts[1]:,} on its diagonal"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def confusion(value: Any) -> tuple[int, int] | None:
    """Counts on the diagonal and in total of a square matrix of counts; ``None`` for others.

    >>> confusion([[8, 2], [1, 9]])
    (17, 20)
    """
    rows = value if isinstance(value, list) else []
    if len(rows) < 2 or any(not isinstance(r, list) or len(r) != len(rows) for r in rows):
        return None
    if any(type(count) is not int for row in rows for count in row):
        return None
    return sum(row[i] for i, row in enumerate(rows)), sum(map(sum, rows))


def query(finding: Finding) -> str:
    """The dashboard's address of the images behind a finding.

    >>> query(Finding("demographics", "share", evidence={"occupation": "head cook"}))
    '?page=gallery&probe=demographics&occupation=head%20cook'
    """
    fields: dict[str, Any] = {"page": "gallery", "probe": finding.probe}
    for key, value in finding.evidence.items():
        fields[str(key)] = [_asked(v) for v in value] if isinstance(value, list) else _asked(value)
    return "?" + urlencode(fields, doseq=True, quote_via=quote)


def short_query(finding: Finding) -> str:
    """The address for a table: a list of many values is counted instead.

    >>> short_query(Finding("a", "m", evidence={"outcome": "ok", "request": ["x"] * 9}))
    '?page=gallery&probe=a&outcome=ok&request=… (9 values; all in card.json)'
    """
    evidence = finding.evidence.items()
    many = {key: v for key, v in evidence if isinstance(v, list) and len(v) > MANY}
    few = {key: value for key, value in evidence if key not in many}
    said = "".join(
        f"&{quote(str(key))}=… ({len(values):,} values; all in card.json)"
        for key, values in many.items()
    )
    return query(dataclasses.replace(finding, evidence=few)) + said


def _asked(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def flat(about: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A nested description as dotted names and one-line values.

    >>> flat({"error": {"skin": 0.02}, "version": "1"})
    {'error.skin': '0.02', 'version': '1'}
    """
    lines: dict[str, str] = {}
    for key, value in about.items():
        if isinstance(value, Mapping) and value:
            lines |= flat(value, f"{before}{key}.")
        else:
            lines[f"{before}{key}"] = scalar(value)
    return lines


def clean(value: object) -> str:
    """Text on one line, without the control characters that reorder or hide what is read.

    >>> clean("a\\nb" + chr(0x202E) + "c")
    'a bc'
    """
    kept = []
    for letter in str(value):
        kind = unicodedata.category(letter)
        if kind == "Cc" or letter in "\u2028\u2029":
            kept.append(" ")
        # The joiners shape letters in Persian, Hindi and emoji.
        elif kind not in ("Cf", "Cs") or letter in "\u200c\u200d":
            kept.append(letter)
    return re.sub(r" {2,}", " ", "".join(kept)).strip()


_SPECIAL = re.compile(
    r"[\\`*\[\]#|~$@]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside a word an underscore is only that
    r"|:(?=/)|(?<=www)\."  # addresses that GitHub would make links of
    r"|^[-+](?=\s)",  # a bullet
    re.IGNORECASE,
)


def markdown(value: object) -> str:
    """Text that means nothing to Markdown: no markup, no HTML, no link, no new cell.

    >>> markdown("a|b](javascript:x) <b>")
    'a\\\\|b\\\\](javascript:x) &lt;b&gt;'
    """
    text = clean(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(lambda match: "\\" + match[0], text)
    return re.sub(r"^(\d+)([.)])(?=\s)", r"\1\\\2", text)  # a numbered list
