/* SPDX-License-Identifier: MIT */
/*
 * See image.h. A file without a build id is hashed by a thread that lives while there is something
 * to read, so that the supervisor's loop never waits for a disk, and that costs nothing afterwards.
 * It is not one of libuv's pool: libuv aborts where a thread cannot be made, and a limit of
 * processes must not end the supervisor. Here the file keeps its size and time, and the next who
 * asks tries again.
 *
 * The thread touches an image's fd, state and hash, under the lock, and nothing else of the
 * process. It frees nothing: an image that was given back while it is read is swept later. Nobody
 * waits for the thread, at the stop neither: it ends with the process.
 */
#include "segue/image.h"
#include "core/fd.h"
#include "segue/build_id.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sha2.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define CHUNK      (16 << 10)  /* on the thread's stack */
#define STACK_SIZE (256 << 10) /* with the 64 KiB of each thread in core/channel.c */
#define NICENESS   10

static_assert(BUILD_ID_MAX <= IMAGE_IDENTITY_MAX, "an id fits");

enum image_state { IMAGE_WAITING, IMAGE_READING, IMAGE_SETTLED };

struct image {
	struct image *next;
	unsigned int users;
	int64_t size;
	struct timespec mtime, ctime;
	dev_t dev;
	ino_t ino;
	enum image_state state;
	atomic_bool unwanted; /* nobody waits for the hash any more */
	int fd;               /* what the thread reads; -1: nothing */
	char identity[IMAGE_IDENTITY_MAX];
	char path[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct image *images;
static bool thread_runs;

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool image_is_file(const struct image *image, const struct stat *st)
{
	return st->st_dev == image->dev && st->st_ino == image->ino;
}

bool image_is_unchanged(const struct image *image, const struct stat *st)
{
	return image_is_file(image, st) && st->st_size == image->size &&
	       same_time(&st->st_mtim, &image->mtime);
}

/* The thread. */

static void write_hash(char *ret_identity, SHA2_CTX *context)
{
	unsigned char digest[SHA256_DIGEST_LENGTH];
	size_t at = (size_t)snprintf(ret_identity, IMAGE_IDENTITY_MAX, "sha256:");

	SHA256Final(digest, context);
	for (size_t i = 0; i < sizeof(digest); i++)
		at += (size_t)snprintf(ret_identity + at, IMAGE_IDENTITY_MAX - at, "%02x",
		                       digest[i]);
}

/* False: it is not wanted, could not be read, or was written to meanwhile, so that the hash would
 * be that of no version. */
static bool read_hash(char *ret_identity, const struct image *image)
{
	unsigned char buffer[CHUNK];
	SHA2_CTX context;
	struct stat st;
	off_t at = 0;

	SHA256Init(&context);
	while (at < image->size && !atomic_load(&image->unwanted)) {
		ssize_t n = pread(image->fd, buffer, sizeof(buffer), at);

		if (n <= 0)
			return false;
		SHA256Update(&context, buffer, (size_t)n);
		at += n;
	}
	if (at != image->size || fstat(image->fd, &st) < 0 || !image_is_unchanged(image, &st))
		return false;
	write_hash(ret_identity, &context);
	return true;
}

static struct image *waiting(void)
{
	struct image *image = images;

	while (image != NULL && image->state != IMAGE_WAITING)
		image = image->next;
	return image;
}

static void *read_waiting(void *unused)
{
	char identity[IMAGE_IDENTITY_MAX];
	struct image *image;

	(void)prctl(PR_SET_NAME, "segue-hash");
	/* Of this thread alone: the workers that start meanwhile go first. */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICENESS);
	pthread_mutex_lock(&lock);
	while ((image = waiting()) != NULL) {
		bool known;

		image->state = IMAGE_READING;
		pthread_mutex_unlock(&lock);
		known = read_hash(identity, image);
		image->fd = sg_fd_close(image->fd);
		pthread_mutex_lock(&lock);
		if (known)
			memcpy(image->identity, identity, sizeof(identity));
		image->state = IMAGE_SETTLED;
	}
	thread_runs = false;
	pthread_mutex_unlock(&lock);
	return unused;
}

/* The rest is called by the supervisor's own thread. */

/* Under the lock. No signal is the thread's: the loop's are caught where they are expected. */
static void start_thread(void)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;

	if (thread_runs || waiting() == NULL || pthread_attr_init(&attributes) != 0)
		return;
	(void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	(void)pthread_attr_setstacksize(&attributes, STACK_SIZE);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	thread_runs = pthread_create(&thread, &attributes, read_waiting, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
}

static void image_free(struct image *image)
{
	struct image **at = &images;

	while (*at != image)
		at = &(*at)->next;
	*at = image->next;
	sg_fd_close(image->fd);
	free(image);
}

/* Under the lock: those that were given back while they were read. */
static void sweep(void)
{
	struct image *image, *next;

	for (image = images; image != NULL; image = next) {
		next = image->next;
		if (image->users == 0 && image->state != IMAGE_READING)
			image_free(image);
	}
}

static struct image *find(const struct stat *st, const char *path)
{
	struct image *image = images;

	while (image != NULL &&
	       (image->users == 0 || !image_is_unchanged(image, st) ||
	        !same_time(&image->ctime, &st->st_ctim) || strcmp(image->path, path) != 0))
		image = image->next;
	return image;
}

/* By a descriptor of its own: an O_PATH one cannot be read. */
static int reopen(int fd)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return sg_fd_above_stdio_take(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
}

static void identify(struct image *image, const struct stat *st, int fd)
{
	image->state = IMAGE_SETTLED;
	image->fd = S_ISREG(st->st_mode) ? reopen(fd) : -1;
	if (image->fd >= 0 && build_id_read(image->identity, image->fd)) {
		image->fd = sg_fd_close(image->fd);
		return;
	}
	snprintf(image->identity, sizeof(image->identity), "size:%lld,mtime:%lld.%09ld",
	         (long long)image->size, (long long)image->mtime.tv_sec, image->mtime.tv_nsec);
	if (image->fd >= 0 && image->size <= IMAGE_HASHED_MAX)
		image->state = IMAGE_WAITING;
	else
		image->fd = sg_fd_close(image->fd);
}

static struct image *image_new(const struct stat *st, int fd, const char *path)
{
	struct image *image = calloc(1, sizeof(*image) + strlen(path) + 1);

	if (image == NULL)
		return NULL;
	image->size = st->st_size;
	image->mtime = st->st_mtim;
	image->ctime = st->st_ctim;
	image->dev = st->st_dev;
	image->ino = st->st_ino;
	strcpy(image->path, path);
	identify(image, st, fd);
	return image;
}

struct image *image_of(int fd, const char *path)
{
	struct image *image, **last = &images;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return NULL;
	pthread_mutex_lock(&lock);
	sweep();
	image = find(&st, path);
	if (image == NULL) {
		image = image_new(&st, fd, path);
		/* Behind the others, whose turn comes first. */
		while (*last != NULL)
			last = &(*last)->next;
		*last = image;
	}
	start_thread();
	pthread_mutex_unlock(&lock);
	return image != NULL ? image_ref(image) : NULL;
}

struct image *image_ref(struct image *image)
{
	if (image != NULL)
		image->users++;
	return image;
}

void image_unref(struct image *image)
{
	if (image == NULL || --image->users > 0)
		return;
	atomic_store(&image->unwanted, true);
	pthread_mutex_lock(&lock);
	sweep();
	pthread_mutex_unlock(&lock);
}

const char *image_path(const struct image *image)
{
	return image->path;
}

int64_t image_size(const struct image *image)
{
	return image->size;
}

void image_identity(struct image *image, char ret_identity[static IMAGE_IDENTITY_MAX])
{
	pthread_mutex_lock(&lock);
	start_thread();
	memcpy(ret_identity, image->identity, sizeof(image->identity));
	pthread_mutex_unlock(&lock);
}
