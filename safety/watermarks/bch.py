"""Binary BCH codes, shortened, as TrustMark carries its payload."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from .codecs import Bits


class Bch:
    """The primitive, narrow-sense BCH code over GF(2^m) that corrects `t` errors.

    Systematic: a word is data, then check bits, highest power first. A word shorter than 2^m − 1
    is one whose first data bits are zero and left away.

    Args:
        t: errors corrected.
        polynomial: a primitive polynomial as a number, bit i for x^i; 137 is x⁷ + x³ + 1.

    Source: Lin and Costello 2004, Error Control Coding, sections 6.1–6.3.

    >>> Bch(2, 19).check_bits, bin(Bch(2, 19).generator)  # the code (15, 7)
    (8, '0b111010001')
    """

    def __init__(self, t: int, polynomial: int = 137) -> None:
        self.t, self.m = t, polynomial.bit_length() - 1
        self.length = (1 << self.m) - 1
        self._power = [1]
        for _ in range(self.length - 1):
            value = self._power[-1] << 1
            self._power.append(value ^ polynomial if value > self.length else value)
        self._log = {value: exponent for exponent, value in enumerate(self._power)}
        self.generator = self._generator()
        self.check_bits = self.generator.bit_length() - 1

    def checks(self, data: Bits) -> Bits:
        """The check bits of data, shape (k,) → (check_bits,)."""
        rest = int("".join(map(str, data.astype(int))), 2) << self.check_bits
        while rest.bit_length() > self.check_bits:
            rest ^= self.generator << (rest.bit_length() - self.generator.bit_length())
        return np.array([rest >> i & 1 for i in reversed(range(self.check_bits))], bool)

    def corrected(self, word: Bits) -> Bits | None:
        """The code word within `t` errors of a word, shape (k + check_bits,); ``None``: none is."""
        powers = np.flatnonzero(word[::-1])
        syndromes = [self._sum(i * powers) for i in range(1, 2 * self.t + 1)]
        if not any(syndromes):
            return word
        locator = self._locator(syndromes)
        errors = len(locator) - 1
        roots = [j for j in range(len(word)) if self._value(locator, -j) == 0]
        if errors > self.t or len(roots) != errors:
            return None
        fixed = word.copy()
        fixed[len(word) - 1 - np.array(roots)] ^= True
        return fixed

    def chance(self, length: int) -> float:
        """The share of all words of `length` bits that lie within `t` errors of a code word."""
        words = sum(comb(length, errors) for errors in range(self.t + 1))
        return words / (1 << self.check_bits)

    def _generator(self) -> int:
        """The product of the minimal polynomials of α, α³, …, α^(2t−1)."""
        zeros = {(i << j) % self.length for i in range(1, 2 * self.t, 2) for j in range(self.m)}
        product = [1]
        for zero in zeros:
            shifted = [0, *product]
            scaled = [*(self._times(c, self._power[zero]) for c in product), 0]
            product = [a ^ b for a, b in zip(shifted, scaled, strict=True)]
        number = 0
        for i, c in enumerate(product):
            number |= c << i
        return number

    def _locator(self, syndromes: list[int]) -> list[int]:
        """The error locator's coefficients, lowest power first, by Berlekamp and Massey."""
        now, before = [1], [1]
        errors, gap, last = 0, 1, 1
        for step, syndrome in enumerate(syndromes):
            discrepancy = syndrome
            for i in range(1, errors + 1):
                if i < len(now):
                    discrepancy ^= self._times(now[i], syndromes[step - i])
            if not discrepancy:
                gap += 1
                continue
            factor = self._power[(self._log[discrepancy] - self._log[last]) % self.length]
            moved = [0] * gap + [self._times(factor, c) for c in before]
            kept, width = now, max(len(now), len(moved))
            now = [
                a ^ b
                for a, b in zip(
                    now + [0] * (width - len(now)), moved + [0] * (width - len(moved)), strict=True
                )
            ]
            if 2 * errors <= step:
                errors, before, last, gap = step + 1 - errors, kept, discrepancy, 1
            else:
                gap += 1
        return now + [0] * (errors + 1 - len(now))

    def _value(self, polynomial: list[int], exponent: int) -> int:
        """The polynomial at α^exponent."""
        value = 0
        for i, c in enumerate(polynomial):
            value ^= self._times(c, self._power[i * exponent % self.length])
        return value

    def _sum(self, exponents: NDArray[np.intp]) -> int:
        total = 0
        for exponent in exponents:
            total ^= self._power[int(exponent) % self.length]
        return total

    def _times(self, a: int, b: int) -> int:
        if not a or not b:
            return 0
        return self._power[(self._log[a] + self._log[b]) % self.length]
