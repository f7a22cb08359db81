"""What can be known about a product: the words every stage after discovery speaks.

`ProductContent` is what the page said, normalised (discovery writes it). `Analysis` is what an analyser read out of
it (enrichment). `ProductFacts` is both merged, with their conflicts (data_mapping), and all that scoring may look at.
Absence is always `None` or an empty tuple; nothing here invents a value. Owns shapes and ranges, no rules.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=20_000)]
ShortText = Annotated[str, Field(max_length=500)]
Confidence = Annotated[float, Field(ge=0, le=1)]


class Fact(BaseModel):
    """The base of all fact models: frozen, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Allergen(StrEnum):
    """The fourteen allergens that labels have to name (EU 1169/2011, annex II)."""

    GLUTEN = "gluten"
    CRUSTACEANS = "crustaceans"
    EGG = "egg"
    FISH = "fish"
    PEANUT = "peanut"
    SOY = "soy"
    MILK = "milk"
    TREE_NUTS = "tree_nuts"
    CELERY = "celery"
    MUSTARD = "mustard"
    SESAME = "sesame"
    SULPHITES = "sulphites"
    LUPIN = "lupin"
    MOLLUSCS = "molluscs"


class SubstanceKind(StrEnum):
    """Why a substance matters to the score. One substance may be of several kinds."""

    ADDITIVE = "additive"
    BANNED = "banned"
    HIGH_CONCERN = "high_concern"
    ARTIFICIAL = "artificial"
    PRESERVATIVE = "preservative"
    ULTRA_PROCESSING = "ultra_processing"
    PALM_OIL = "palm_oil"


class Certification(StrEnum):
    """Certificates and marks that the rules know by name."""

    FSSAI = "fssai"
    ISO = "iso"
    HACCP = "haccp"
    GMP = "gmp"
    AGMARK = "agmark"
    INDIA_ORGANIC = "india_organic"
    USDA_ORGANIC = "usda_organic"
    EU_ORGANIC = "eu_organic"
    JAIVIK_BHARAT = "jaivik_bharat"
    FAIRTRADE = "fairtrade"
    RAINFOREST_ALLIANCE = "rainforest_alliance"
    UTZ = "utz"
    RSPO = "rspo"
    MSC = "msc"
    ASC = "asc"
    FSC = "fsc"
    CARBON_NEUTRAL = "carbon_neutral"
    CARBON_TRUST = "carbon_trust"
    EPR = "epr"
    GREEN_DOT = "green_dot"
    KOSHER = "kosher"
    HALAL = "halal"
    VEGAN = "vegan"
    VEGETARIAN = "vegetarian"
    GLUTEN_FREE = "gluten_free"
    NON_GMO = "non_gmo"
    LABEL_ROUGE = "label_rouge"
    PROTECTED_ORIGIN = "protected_origin"
    OTHER = "other"


class ClaimKind(StrEnum):
    """Claims a label makes about itself."""

    ORIGIN = "origin"
    FREE_FROM = "free_from"
    ORGANIC = "organic"
    SUSTAINABLE_PALM = "sustainable_palm"
    RECYCLABLE = "recyclable"
    BIODEGRADABLE = "biodegradable"
    COMPOSTABLE = "compostable"
    STORAGE = "storage"
    USAGE = "usage"
    WARNING = "warning"
    NUTRITION = "nutrition"
    OTHER = "other"


class Source(StrEnum):
    """Where on the page or pack a finding stands."""

    INGREDIENTS = "ingredients"
    LABEL = "label"
    ALLERGEN_LIST = "allergen_list"
    MAY_CONTAIN = "may_contain"
    NAME = "name"
    BRAND = "brand"
    CATEGORY = "category"
    DESCRIPTION = "description"
    PACKAGING = "packaging"
    ORIGIN_FIELD = "origin_field"
    NUTRITION_TABLE = "nutrition_table"
    IMAGE = "image"


class Evidence(Fact):
    """The words a finding rests on, and where they stand."""

    text: ShortText
    source: Source


class Nutrition(Fact):
    """Nutrition per 100 g or 100 ml. Grams, but for sodium (mg) and energy (kcal). `None`: the label does not say."""

    energy_kcal: Annotated[Decimal, Field(ge=0, le=900)] | None = None
    fat_g: Annotated[Decimal, Field(ge=0, le=100)] | None = None
    saturated_fat_g: Annotated[Decimal, Field(ge=0, le=100)] | None = None
    carbohydrate_g: Annotated[Decimal, Field(ge=0, le=100)] | None = None
    sugar_g: Annotated[Decimal, Field(ge=0, le=100)] | None = None
    fiber_g: Annotated[Decimal, Field(ge=0, le=100)] | None = None
    protein_g: Annotated[Decimal, Field(ge=0, le=100)] | None = None
    sodium_mg: Annotated[Decimal, Field(ge=0, le=40_000)] | None = None

    def is_empty(self) -> bool:
        """Say whether no value at all is known."""
        return not any(value is not None for value in self.model_dump().values())


class Ingredient(Fact):
    """One ingredient as listed; `position` counts from 1 in reading order, `percent` only where the label gives it."""

    position: Annotated[int, Field(ge=1)]
    text: ShortText
    percent: Annotated[float, Field(ge=0, le=100)] | None = None


class Substance(Fact):
    """A known substance found in the ingredients.

    `substance` is its canonical id: an E-number in lower case without sub-variant ("e322") where it has one, else a
    snake_case English name ("palm_oil"). `e_number` repeats the number, `None` where there is none.
    """

    substance: Annotated[str, Field(pattern=r"^[a-z0-9_]{2,60}$")]
    e_number: Annotated[str, Field(pattern=r"^e\d{3,4}[a-z]?$")] | None = None
    kinds: tuple[SubstanceKind, ...] = ()
    evidence: Evidence


class AllergenFinding(Fact):
    """An allergen and the words that show it."""

    allergen: Allergen
    evidence: Evidence


class CertificationFinding(Fact):
    """A certificate or mark and the words that show it."""

    certification: Certification
    evidence: Evidence


class ClaimFinding(Fact):
    """A claim and the words that make it."""

    claim: ClaimKind
    evidence: Evidence


class ProductContent(Fact):
    """What the page says about the product, normalised. Its hash decides whether a new product version begins.

    Price, page address, image addresses and crawl time are deliberately not part of it. Order of lists is kept.
    """

    name: Annotated[str, Field(min_length=1, max_length=500)]
    brand: ShortText | None = None
    retailer: ShortText | None = None
    category: ShortText | None = None
    gtin: Annotated[str, Field(pattern=r"^\d{8,14}$")] | None = None
    pack_size: ShortText | None = None
    serving_size: ShortText | None = None
    description: Text | None = None
    ingredients_text: Text | None = None
    labels: tuple[ShortText, ...] = ()
    allergens_declared: tuple[ShortText, ...] = ()
    may_contain: tuple[ShortText, ...] = ()
    packaging: tuple[ShortText, ...] = ()
    origins: tuple[ShortText, ...] = ()
    manufacturing_places: tuple[ShortText, ...] = ()
    countries: tuple[ShortText, ...] = ()
    nutrition: Nutrition = Nutrition()

    def has_text(self) -> bool:
        """Say whether there is anything to analyse without an image: ingredients, nutrition or description."""
        return bool(self.ingredients_text or self.description) or not self.nutrition.is_empty()


class Analysis(Fact):
    """What an analyser read out of a product's content and images. Findings are unique and in reading order."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] | None = None
    ingredients: Annotated[tuple[Ingredient, ...], Field(max_length=500)] = ()
    substances: Annotated[tuple[Substance, ...], Field(max_length=500)] = ()
    allergens: Annotated[tuple[AllergenFinding, ...], Field(max_length=100)] = ()
    """Allergens that are among the ingredients."""
    allergens_declared: Annotated[tuple[AllergenFinding, ...], Field(max_length=100)] = ()
    """Allergens that the label declares or emphasises as such."""
    may_contain: Annotated[tuple[AllergenFinding, ...], Field(max_length=100)] = ()
    certifications: Annotated[tuple[CertificationFinding, ...], Field(max_length=100)] = ()
    claims: Annotated[tuple[ClaimFinding, ...], Field(max_length=200)] = ()
    nutrition: Nutrition = Nutrition()
    """Per 100 g, read from text or image; empty when nothing beyond the page's own table was read."""
    confidence: Confidence = 0.0


class Conflict(Fact):
    """Where the label and the analysis disagree; the label's value is kept."""

    field: ShortText
    label: ShortText
    analysis: ShortText


class ProductFacts(Fact):
    """Label and analysis merged: all that scoring may look at."""

    content: ProductContent
    analysis: Analysis
    nutrition: Nutrition
    conflicts: tuple[Conflict, ...] = ()
    images_used: Annotated[int, Field(ge=0)] = 0
    confidence: Confidence
