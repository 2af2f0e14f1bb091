// SPDX-License-Identifier: Apache-2.0
//
// ceiling --socket PATH --size BYTES [--sleep]   answers NBD requests as fast as this machine and a client can take it
//
// It is no server: it keeps nothing, checks nothing, and every read gets the same bytes. It receives all that there is with
// one system call, into memory that stays in the processor's cache, and answers all of it with another. It has one thread,
// which never sleeps, unless told to: with --sleep it waits in the kernel as other servers do. What a client does with it
// is what that client can do at the best, so no ratio of two servers can be larger.
//
// It speaks newstyle with structured replies, because clients treat those differently from simple ones.

#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	READ_AHEAD = 256 << 10, // bytes received at once
	BATCH = 512,            // replies sent at once
	MAX_DATA = 32 << 20,    // of one reply
	FLAGS = 0x0041,         // has flags, sends DF; no flush, so that none is sent
};

struct option { uint64_t magic; uint32_t number, length; } __attribute__((packed));
struct option_reply { uint64_t magic; uint32_t number, type, length; } __attribute__((packed));
struct export_info { uint16_t type; uint64_t size; uint16_t flags; } __attribute__((packed));
struct request { uint32_t magic; uint16_t flags, command; uint64_t cookie, offset; uint32_t length; } __attribute__((packed));
struct simple { uint32_t magic, error; uint64_t cookie; } __attribute__((packed));
struct chunk { uint32_t magic; uint16_t flags, type; uint64_t cookie; uint32_t length; uint64_t offset; } __attribute__((packed));

static uint64_t size_bytes;
static int wait_flag = MSG_DONTWAIT;
static unsigned char data[MAX_DATA];
static unsigned char in[READ_AHEAD];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

// Returns 0 at the end of the stream.
static size_t take(int fd, void *p, size_t n)
{
	for (;;) {
		ssize_t got = recv(fd, p, n, wait_flag);
		if (got >= 0)
			return got;
		if (errno != EAGAIN && errno != EINTR)
			return 0;
	}
}

static int take_all(int fd, void *p, size_t n)
{
	for (size_t got; n > 0; p = (char *)p + got, n -= got)
		if (!(got = take(fd, p, n)))
			return 0;
	return 1;
}

static int put_all(int fd, struct iovec *v, int n)
{
	while (n > 0) {
		struct msghdr m = { .msg_iov = v, .msg_iovlen = n > IOV_MAX ? IOV_MAX : n };
		ssize_t sent = sendmsg(fd, &m, wait_flag | MSG_NOSIGNAL);
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return 0;
		if (sent < 0)
			continue;
		for (; n > 0 && (size_t)sent >= v->iov_len; v++, n--)
			sent -= v->iov_len;
		if (n > 0) {
			v->iov_base = (char *)v->iov_base + sent;
			v->iov_len -= sent;
		}
	}
	return 1;
}

static int put(int fd, void *p, size_t n)
{
	struct iovec v = { p, n };
	return put_all(fd, &v, 1);
}

static int reply_option(int fd, uint32_t number, uint32_t type, void *p, uint32_t n)
{
	struct option_reply r = { htobe64(0x3e889045565a9ull), number, htobe32(type), htobe32(n) };
	return put(fd, &r, sizeof r) && put(fd, p, n);
}

// Returns 1 when requests may come.
static int negotiate(int fd)
{
	struct { uint64_t magic, more; uint16_t flags; } __attribute__((packed)) hello = {
		htobe64(0x4e42444d41474943ull), htobe64(0x49484156454f5054ull), htobe16(3) };
	uint32_t client;
	if (!put(fd, &hello, sizeof hello) || !take_all(fd, &client, sizeof client))
		return 0;
	for (struct option o; take_all(fd, &o, sizeof o);) {
		struct export_info info = { 0, htobe64(size_bytes), htobe16(FLAGS) };
		int ok;
		if (be32toh(o.length) > sizeof in || !take_all(fd, in, be32toh(o.length)))
			return 0;
		switch (be32toh(o.number)) {
		case 2: // abort
			reply_option(fd, o.number, 1, NULL, 0);
			return 0;
		case 7: // go
			return reply_option(fd, o.number, 3, &info, sizeof info) && reply_option(fd, o.number, 1, NULL, 0);
		case 8: // structured replies
			ok = reply_option(fd, o.number, 1, NULL, 0);
			break;
		default: // unsupported
			ok = reply_option(fd, o.number, 0x80000001u, NULL, 0);
		}
		if (!ok)
			return 0;
	}
	return 0;
}

static union { struct simple simple; struct chunk chunk; } headers[BATCH];
static struct iovec out[2 * BATCH];
static int replies, pieces;

static int flush_replies(int fd)
{
	int n = pieces;
	replies = pieces = 0;
	return put_all(fd, out, n);
}

static void reply(const struct request *q)
{
	uint32_t length = be32toh(q->length);
	if (be16toh(q->command) == 0) {
		headers[replies].chunk = (struct chunk){ htobe32(0x668e33ef), htobe16(1), htobe16(1), q->cookie, htobe32(length + 8),
		                                         q->offset };
		out[pieces++] = (struct iovec){ &headers[replies++].chunk, sizeof(struct chunk) };
		out[pieces++] = (struct iovec){ data, length };
		return;
	}
	headers[replies].simple = (struct simple){ htobe32(0x67446698), 0, q->cookie };
	out[pieces++] = (struct iovec){ &headers[replies++].simple, sizeof(struct simple) };
}

static void serve(int fd)
{
	size_t start = 0, end = 0;
	for (;;) {
		struct request q;
		while (end - start >= sizeof q) {
			memcpy(&q, in + start, sizeof q);
			start += sizeof q;
			uint32_t length = be32toh(q.length);
			if (q.magic != htobe32(0x25609513) || length > MAX_DATA || be16toh(q.command) > 2)
				return;
			if (be16toh(q.command) == 2) // disconnect
				return;
			for (size_t left = be16toh(q.command) == 1 ? length : 0; left > 0;) {
				size_t have = end - start < left ? end - start : left;
				start += have;
				if (!(left -= have))
					break;
				start = 0; // the rest of it, and what follows, over the bytes that are not needed
				if (!(end = take(fd, in, sizeof in)))
					return;
			}
			reply(&q);
			if (replies == BATCH && !flush_replies(fd))
				return;
		}
		if (!flush_replies(fd))
			return;
		memmove(in, in + start, end - start);
		end -= start, start = 0;
		size_t got = take(fd, in + end, sizeof in - end);
		if (!got)
			return;
		end += got;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--sleep"))
			wait_flag = 0;
		else if (!strcmp(argv[i], "--socket") && i + 1 < argc)
			snprintf(a.sun_path, sizeof a.sun_path, "%s", argv[++i]);
		else if (!strcmp(argv[i], "--size") && i + 1 < argc)
			size_bytes = strtoull(argv[++i], NULL, 10);
	}
	memset(data, 0x5a, sizeof data);
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	if (l < 0 || bind(l, (struct sockaddr *)&a, sizeof a) || listen(l, 8))
		die("ceiling: cannot listen");
	for (int fd; (fd = accept(l, NULL, NULL)) >= 0; close(fd)) {
		int room = 1 << 20;
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
		if (negotiate(fd))
			serve(fd);
	}
	die("ceiling: cannot accept");
}
