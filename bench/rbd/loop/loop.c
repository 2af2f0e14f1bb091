// SPDX-License-Identifier: Apache-2.0

// loop POOL IMAGE KEYFILE|- read|write BLOCK DEPTH SIZE SECONDS
//
// librbd with nothing around it: every completion submits the next random request, on librbd's own thread.  With KEYFILE the
// image is LUKS2 and librbd decrypts.  Prints one line of JSON: requests a second, the median latency, and the processor time
// of this process for a request.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <rados/librados.h>
#include <rbd/librbd.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

enum { MAX_LATENCIES = 1 << 22 };

struct job {
	const char *pool, *image, *key_file;
	int write, depth;
	uint64_t block_bytes, size_bytes;
	double seconds;
};

struct loop {
	struct job job;
	rbd_image_t image;
	double end;
	_Atomic uint64_t requests, seed;
	_Atomic int live, error;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	uint32_t *latencies;
};

struct slot {
	struct loop *loop;
	char *buffer;
	double since;
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(void)
{
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

// random_block is splitmix64 over a shared counter.
static uint64_t random_block(struct loop *l)
{
	uint64_t z = atomic_fetch_add(&l->seed, 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return (z ^ (z >> 31)) % (l->job.size_bytes / l->job.block_bytes);
}

static void finish(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	if (atomic_fetch_sub(&l->live, 1) == 1)
		pthread_cond_signal(&l->idle);
	pthread_mutex_unlock(&l->lock);
}

static void completed(rbd_completion_t c, void *arg);

static void submit(struct slot *s)
{
	struct loop *l = s->loop;
	uint64_t offset = random_block(l) * l->job.block_bytes;
	rbd_completion_t c;
	s->since = now();
	int r = rbd_aio_create_completion(s, completed, &c);
	if (r == 0) {
		r = l->job.write ? rbd_aio_write(l->image, offset, l->job.block_bytes, s->buffer, c)
				 : rbd_aio_read(l->image, offset, l->job.block_bytes, s->buffer, c);
		if (r < 0)
			rbd_aio_release(c);
	}
	if (r < 0) {
		atomic_store(&l->error, r);
		finish(l);
	}
}

static void completed(rbd_completion_t c, void *arg)
{
	struct slot *s = arg;
	struct loop *l = s->loop;
	ssize_t r = rbd_aio_get_return_value(c);
	rbd_aio_release(c);
	double at = now();
	uint64_t n = atomic_fetch_add(&l->requests, 1);
	if (n < MAX_LATENCIES)
		l->latencies[n] = (at - s->since) * 1e9;
	if (r < 0)
		atomic_store(&l->error, r);
	if (at >= l->end || r < 0)
		finish(l);
	else
		submit(s);
}

// As in librbd.h of Ceph 16 and later, and looked up at run time, so that older headers do.
struct encryption_options {
	int alg;
	const char *passphrase;
	size_t passphrase_size;
};

static int load_encryption(struct loop *l)
{
	enum { LUKS2 = 1, AES256 = 1 };
	static char passphrase[4096];
	int (*load)(rbd_image_t, int, void *, size_t) = dlsym(RTLD_DEFAULT, "rbd_encryption_load");
	if (!load)
		return -ENOSYS;
	FILE *f = fopen(l->job.key_file, "r");
	if (!f)
		return -errno;
	struct encryption_options o = { AES256, passphrase, fread(passphrase, 1, sizeof passphrase, f) };
	fclose(f);
	return load(l->image, LUKS2, &o, sizeof o);
}

// fill makes the buffers, of bytes that do not compress.
static struct slot *fill(struct loop *l)
{
	struct slot *slots = calloc(l->job.depth, sizeof *slots);
	for (int i = 0; slots && i < l->job.depth; i++) {
		slots[i].loop = l;
		if (posix_memalign((void **)&slots[i].buffer, 4096, l->job.block_bytes))
			return NULL;
		for (uint64_t at = 0; at < l->job.block_bytes; at += 256)
			if (getrandom(slots[i].buffer + at, 256, 0) != 256)
				return NULL;
	}
	return slots;
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void print(struct loop *l, double seconds, double cpu_seconds)
{
	uint64_t requests = atomic_load(&l->requests), n = requests < MAX_LATENCIES ? requests : MAX_LATENCIES;
	qsort(l->latencies, n, sizeof *l->latencies, by_size);
	printf("{\"iops\":%.1f,\"p50_us\":%.1f,\"cpu_us\":%.3f}\n", requests / seconds, l->latencies[n / 2] / 1e3,
	       cpu_seconds / requests * 1e6);
}

// repeat keeps depth requests in flight until the time is up.
static int repeat(struct loop *l)
{
	struct slot *slots = fill(l);
	l->latencies = malloc(MAX_LATENCIES * sizeof *l->latencies);
	if (!slots || !l->latencies)
		return -ENOMEM;
	atomic_store(&l->live, l->job.depth);
	double start = now(), cpu_start = cpu();
	l->end = start + l->job.seconds;
	for (int i = 0; i < l->job.depth; i++)
		submit(&slots[i]);
	pthread_mutex_lock(&l->lock);
	while (atomic_load(&l->live))
		pthread_cond_wait(&l->idle, &l->lock);
	pthread_mutex_unlock(&l->lock);
	double end = now(), cpu_end = cpu();
	if (!atomic_load(&l->error))
		print(l, end - start, cpu_end - cpu_start);
	return atomic_load(&l->error);
}

static void try(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "loop: %s: %s\n", what, strerror(-result));
	exit(1);
}

int main(int argc, char **argv)
{
	if (argc != 9) {
		fprintf(stderr, "usage: loop POOL IMAGE KEYFILE|- read|write BLOCK DEPTH SIZE SECONDS\n");
		return 2;
	}
	struct loop l = {
		.job = { argv[1], argv[2], strcmp(argv[3], "-") ? argv[3] : NULL, !strcmp(argv[4], "write"), atoi(argv[6]),
			 strtoull(argv[5], NULL, 10), strtoull(argv[7], NULL, 10), atof(argv[8]) },
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.idle = PTHREAD_COND_INITIALIZER,
	};
	rados_t cluster;
	rados_ioctx_t io;
	atomic_store(&l.seed, time(NULL));
	try(rados_create2(&cluster, "ceph", "client.admin", 0), "rados_create2");
	try(rados_conf_read_file(cluster, NULL), "reading ceph.conf");
	try(rados_conf_set(cluster, "rbd_cache", "false"), "rbd_cache");
	try(rados_connect(cluster), "rados_connect");
	try(rados_ioctx_create(cluster, l.job.pool, &io), l.job.pool);
	try(rbd_open(io, l.job.image, &l.image, NULL), l.job.image);
	if (l.job.key_file)
		try(load_encryption(&l), "rbd_encryption_load");
	try(repeat(&l), "I/O");
	rbd_close(l.image);
	rados_ioctx_destroy(io);
	rados_shutdown(cluster);
	return 0;
}
