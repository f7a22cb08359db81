-- Products, their versioned facts, analyses, scores and the search index.

CREATE TABLE brand (
    brand_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    name text NOT NULL,
    name_key text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE product (
    product_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    brand_id uuid REFERENCES brand (brand_id),
    name text NOT NULL,
    name_key text NOT NULL,
    pack_size text,
    category text,
    gtin text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE product_identifier (
    kind varchar(20) NOT NULL CHECK (kind IN ('gtin', 'retailer', 'hash')),
    value text NOT NULL,
    product_id uuid NOT NULL REFERENCES product (product_id),
    PRIMARY KEY (kind, value)
);

CREATE INDEX identifier_of_product ON product_identifier (product_id);

CREATE TABLE product_version (
    product_version_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    version int NOT NULL,
    content_hash text NOT NULL,
    content jsonb NOT NULL,
    valid_from timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_to timestamptz,
    UNIQUE (product_id, version)
);

CREATE UNIQUE INDEX version_current ON product_version (product_id) WHERE valid_to IS NULL;

CREATE TABLE source_page (
    source_page_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    url text NOT NULL,
    url_key text NOT NULL UNIQUE,
    product_id uuid NOT NULL REFERENCES product (product_id),
    retailer text,
    price numeric,
    mrp numeric,
    discount text,
    rating numeric,
    review_count int,
    in_stock boolean,
    crawled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX page_of_product ON source_page (product_id);

CREATE TABLE product_image (
    product_image_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    url text NOT NULL,
    position int NOT NULL,
    status varchar(20) NOT NULL CHECK (status IN ('stored', 'unusable')),
    reason text,
    sha256 text,
    mime_type text,
    width int,
    height int,
    size_bytes bigint,
    stored_at text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (product_id, url)
);

CREATE TABLE product_analysis (
    analysis_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_version_id uuid NOT NULL REFERENCES product_version (product_version_id),
    model_used text NOT NULL,
    prompt_version text NOT NULL,
    images_used int NOT NULL,
    answer_hash text NOT NULL,
    analysis jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (product_version_id, model_used, prompt_version, images_used, answer_hash)
);

-- Facts: a row per change, one current row per product. `fact_hash` decides whether anything changed.
CREATE TABLE ingredients_v (
    fact_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    analysis_id uuid NOT NULL REFERENCES product_analysis (analysis_id),
    ingredients jsonb NOT NULL,
    substances jsonb NOT NULL,
    additives text[] NOT NULL,
    language text,
    confidence numeric NOT NULL,
    fact_hash text NOT NULL,
    valid_from timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_to timestamptz
);

CREATE TABLE nutrition_v (
    fact_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    analysis_id uuid NOT NULL REFERENCES product_analysis (analysis_id),
    energy_kcal numeric,
    fat_g numeric,
    saturated_fat_g numeric,
    carbohydrate_g numeric,
    sugar_g numeric,
    fiber_g numeric,
    protein_g numeric,
    sodium_mg numeric,
    serving_size text,
    conflicts jsonb NOT NULL,
    confidence numeric NOT NULL,
    fact_hash text NOT NULL,
    valid_from timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_to timestamptz
);

COMMENT ON TABLE nutrition_v IS 'Per 100 g or 100 ml: grams, sodium in milligrams, energy in kilocalories.';

CREATE TABLE allergens_v (
    fact_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    analysis_id uuid NOT NULL REFERENCES product_analysis (analysis_id),
    contains text[] NOT NULL,
    declared text[] NOT NULL,
    may_contain text[] NOT NULL,
    evidence jsonb NOT NULL,
    confidence numeric NOT NULL,
    fact_hash text NOT NULL,
    valid_from timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_to timestamptz
);

CREATE TABLE claims_v (
    fact_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    analysis_id uuid NOT NULL REFERENCES product_analysis (analysis_id),
    claims jsonb NOT NULL,
    confidence numeric NOT NULL,
    fact_hash text NOT NULL,
    valid_from timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_to timestamptz
);

CREATE TABLE certifications_v (
    fact_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    analysis_id uuid NOT NULL REFERENCES product_analysis (analysis_id),
    certifications text[] NOT NULL,
    evidence jsonb NOT NULL,
    confidence numeric NOT NULL,
    fact_hash text NOT NULL,
    valid_from timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_to timestamptz
);

CREATE UNIQUE INDEX ingredients_current ON ingredients_v (product_id) WHERE valid_to IS NULL;
CREATE UNIQUE INDEX nutrition_current ON nutrition_v (product_id) WHERE valid_to IS NULL;
CREATE UNIQUE INDEX allergens_current ON allergens_v (product_id) WHERE valid_to IS NULL;
CREATE UNIQUE INDEX claims_current ON claims_v (product_id) WHERE valid_to IS NULL;
CREATE UNIQUE INDEX certifications_current ON certifications_v (product_id) WHERE valid_to IS NULL;

CREATE TABLE policy_catalog (
    policy text NOT NULL,
    version text NOT NULL,
    definition jsonb NOT NULL,
    active boolean NOT NULL DEFAULT FALSE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (policy, version)
);

CREATE UNIQUE INDEX policy_one_active ON policy_catalog (active) WHERE active;

CREATE TABLE squor_score (
    squor_score_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    analysis_id uuid NOT NULL REFERENCES product_analysis (analysis_id),
    policy text NOT NULL,
    policy_version text NOT NULL,
    overall numeric(4, 1),
    rating text,
    grade text,
    assessed_weight numeric NOT NULL,
    confidence numeric NOT NULL,
    flags text[] NOT NULL,
    missing text[] NOT NULL,
    heaviest text,
    is_current boolean NOT NULL DEFAULT TRUE,
    scored_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (policy, policy_version) REFERENCES policy_catalog (policy, version),
    UNIQUE (analysis_id, policy, policy_version)
);

CREATE UNIQUE INDEX score_current ON squor_score (product_id) WHERE is_current;
CREATE INDEX score_by_grade ON squor_score (grade, overall DESC) WHERE is_current;

CREATE TABLE squor_component (
    squor_score_id uuid NOT NULL REFERENCES squor_score (squor_score_id) ON DELETE CASCADE,
    component varchar(20) NOT NULL,
    score numeric,
    weight numeric NOT NULL,
    start_points numeric NOT NULL,
    factors jsonb NOT NULL,
    missing text[] NOT NULL,
    PRIMARY KEY (squor_score_id, component)
);

CREATE TABLE search_document (
    product_id uuid PRIMARY KEY REFERENCES product (product_id),
    name text NOT NULL,
    brand text,
    category text,
    grade text,
    overall numeric(4, 1),
    allergens text[] NOT NULL,
    body text NOT NULL,
    document tsvector NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON COLUMN search_document.body IS 'What snippets are cut from; plain text from crawled pages, escape it where it is shown.';

CREATE INDEX search_words ON search_document USING gin (document);
CREATE INDEX search_allergens ON search_document USING gin (allergens);
CREATE INDEX search_facets ON search_document (grade, category);
