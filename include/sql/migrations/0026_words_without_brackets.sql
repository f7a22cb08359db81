-- A crawled name that is a piece of a page (`<b>Oats</b>`) is found by its words: what looks like a tag would be no word.

CREATE OR REPLACE FUNCTION workflow_words(p_crawler_data jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    -- Without punctuation: an address would be one word, a hyphenated word three, and a tag none.
    SELECT to_tsvector('simple', translate(
        left(coalesce(p_crawler_data ->> 'name', '') || ' ' || coalesce(p_crawler_data ->> 'url', ''), 4000),
        '.,;:/\-_?!=&%+#@()[]"''<>', '                        '))
$$;

-- The index holds what the function said before.
REINDEX INDEX payload_words;
