-- Indexes of pgvector that stay: built, inserted into, vacuumed.
CREATE TABLE items (id int, v vector(32), h halfvec(32), b bit(64), s sparsevec(100));
INSERT INTO items SELECT i, (SELECT array_agg(((hashint8(i * 100 + j) % 1000) / 1000.0)::real) FROM generate_series(1, 32) j)::vector, (SELECT array_agg(((hashint8(i * 77 + j) % 1000) / 1000.0)::real) FROM generate_series(1, 32) j)::halfvec, (hashint8(i)::bigint)::bit(64), ('{' || (1 + i % 99) || ':' || (i % 10 + 1) || '}/100')::sparsevec FROM generate_series(1, 5000) i;
SET maintenance_work_mem = '32MB'; SET max_parallel_maintenance_workers = 0;
CREATE INDEX hnsw_v ON items USING hnsw (v vector_l2_ops);
CREATE INDEX hnsw_h ON items USING hnsw (h halfvec_cosine_ops);
CREATE INDEX hnsw_b ON items USING hnsw (b bit_hamming_ops);
CREATE INDEX hnsw_s ON items USING hnsw (s sparsevec_l2_ops);
CREATE INDEX ivf_v ON items USING ivfflat (v vector_ip_ops) WITH (lists = 20);
INSERT INTO items SELECT id + 5000, v, h, b, s FROM items WHERE id <= 2000;
DELETE FROM items WHERE id % 3 = 0;
VACUUM items;
INSERT INTO items SELECT id + 10000, v, h, b, s FROM items WHERE id <= 1000;
UPDATE items SET v = v + v WHERE id % 7 = 0;
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM items;
SELECT round((v <-> (SELECT v FROM items WHERE id = 1))::numeric, 4) FROM items ORDER BY v <-> (SELECT v FROM items WHERE id = 1) LIMIT 3;
