-- Indexes of PostGIS that stay: built, inserted into, vacuumed.
CREATE TABLE places (id int, g geometry(Point, 4326), a geometry, geo geography);
INSERT INTO places SELECT i, ST_SetSRID(ST_MakePoint((hashint8(i) % 18000) / 100.0, (hashint8(i + 1) % 9000) / 100.0), 4326), ST_Buffer(ST_MakePoint(i % 300, i / 300), 3, 4), ST_SetSRID(ST_MakePoint((hashint8(i) % 18000) / 100.0, (hashint8(i + 1) % 9000) / 100.0), 4326)::geography FROM generate_series(1, 20000) i;
CREATE INDEX gist_g ON places USING gist (g);
CREATE INDEX gist_a ON places USING gist (a gist_geometry_ops_nd);
CREATE INDEX gist_geo ON places USING gist (geo);
CREATE INDEX spgist_g ON places USING spgist (g);
CREATE INDEX brin_a ON places USING brin (a) WITH (pages_per_range = 8);
INSERT INTO places SELECT id + 20000, g, a, geo FROM places WHERE id <= 8000;
DELETE FROM places WHERE id % 3 = 0;
VACUUM ANALYZE places;
INSERT INTO places SELECT id + 50000, g, a, geo FROM places WHERE id <= 3000;
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM places WHERE g && ST_MakeEnvelope(0, 0, 60, 45, 4326);
SELECT count(*), sum(id) FROM places WHERE a && ST_MakeEnvelope(10, 10, 40, 30);
SELECT id FROM places ORDER BY g <-> ST_SetSRID(ST_MakePoint(10, 10), 4326), id LIMIT 5;
SELECT count(*) FROM places WHERE ST_DWithin(geo, 'POINT(10 10)'::geography, 500000);
SELECT ST_AsText(ST_Transform(ST_SetSRID(ST_MakePoint(10, 50), 4326), 3857), 1);
