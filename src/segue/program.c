/* SPDX-License-Identifier: MIT */
/*
 * See program.h. Everything is read through the descriptor that is kept, never through the
 * path again: what lies there may be another file by now.
 *
 * A file without a build id is named by its size and time, not by a hash of its content: the
 * supervisor has one thread, and 64 MiB of hashing would be the length of an upgrade.
 * Source: elf(5), https://docs.kernel.org (fs/binfmt_script.c), Go's cmd/internal/buildid
 */
#include "segue/program.h"

#include "core/fd.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADERS_MAX 64
#define NOTES_MAX   (64 << 10)
#define ID_MAX      32
#define GO_BUILD_ID 4
#define KNOWN_MAX   8

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NATIVE_DATA ELFDATA2LSB
#else
#define NATIVE_DATA ELFDATA2MSB
#endif

/* Where the notes of a program lie. */
struct segment {
	uint32_t type;
	uint64_t offset, size, align;
};

struct elf {
	int fd;
	bool wide; /* ELF64 */
	uint64_t headers;
	uint32_t headers_len, header_size;
};

/* Identities that were worked out before; the oldest is replaced. */
static struct program known[KNOWN_MAX];
static unsigned int known_next;

static bool read_at(int fd, void *buffer, size_t size, uint64_t offset)
{
	return offset <= INT64_MAX && pread(fd, buffer, size, (off_t)offset) == (ssize_t)size;
}

static bool elf_open(struct elf *ret_elf, int fd)
{
	union {
		unsigned char ident[EI_NIDENT];
		Elf64_Ehdr wide;
		Elf32_Ehdr narrow;
	} head = { 0 };

	if (!read_at(fd, &head, sizeof(head.narrow), 0) ||
	    memcmp(head.ident, ELFMAG, SELFMAG) != 0 || head.ident[EI_DATA] != NATIVE_DATA)
		return false;
	ret_elf->fd = fd;
	ret_elf->wide = head.ident[EI_CLASS] == ELFCLASS64;
	if (ret_elf->wide && !read_at(fd, &head, sizeof(head.wide), 0))
		return false;
	ret_elf->headers = ret_elf->wide ? head.wide.e_phoff : head.narrow.e_phoff;
	ret_elf->headers_len = ret_elf->wide ? head.wide.e_phnum : head.narrow.e_phnum;
	ret_elf->header_size = ret_elf->wide ? head.wide.e_phentsize : head.narrow.e_phentsize;
	return ret_elf->header_size == (ret_elf->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr));
}

static bool elf_segment(struct segment *ret_segment, const struct elf *elf, uint32_t index)
{
	uint64_t offset = elf->headers + (uint64_t)index * elf->header_size;
	Elf64_Phdr wide;
	Elf32_Phdr narrow;

	if (elf->wide) {
		if (!read_at(elf->fd, &wide, sizeof(wide), offset))
			return false;
		*ret_segment =
			(struct segment){ wide.p_type, wide.p_offset, wide.p_filesz, wide.p_align };
	} else {
		if (!read_at(elf->fd, &narrow, sizeof(narrow), offset))
			return false;
		*ret_segment = (struct segment){ narrow.p_type, narrow.p_offset, narrow.p_filesz,
			                         narrow.p_align };
	}
	return true;
}

static void write_hex(char *ret_identity, size_t size, const unsigned char *id, size_t len)
{
	size_t at = (size_t)snprintf(ret_identity, size, "build-id:");

	for (size_t i = 0; i < len; i++)
		at += (size_t)snprintf(ret_identity + at, size - at, "%02x", id[i]);
}

/* The last part of Go's id is the hash of the content; the others are about its making. */
static bool write_go(char *ret_identity, size_t size, const unsigned char *id, size_t len)
{
	const unsigned char *slash = memrchr(id, '/', len);
	size_t skip = slash != NULL ? (size_t)(slash - id) + 1 : 0;

	for (size_t i = skip; i < len; i++)
		if (id[i] <= ' ' || id[i] >= 0x7f)
			return false;
	if (len == skip || len - skip > 64)
		return false;
	snprintf(ret_identity, size, "go-id:%.*s", (int)(len - skip), (const char *)id + skip);
	return true;
}

/* Is the note an identity? name and id lie within the notes. */
static bool read_note(struct program *program, const Elf64_Nhdr *head, const unsigned char *name,
                      const unsigned char *id)
{
	size_t size = sizeof(program->identity);

	if (head->n_namesz != 4 || head->n_descsz == 0)
		return false;
	if (head->n_type == NT_GNU_BUILD_ID && memcmp(name, "GNU", 4) == 0 &&
	    head->n_descsz <= ID_MAX) {
		write_hex(program->identity, size, id, head->n_descsz);
		return true;
	}
	if (head->n_type == GO_BUILD_ID && memcmp(name, "Go\0", 4) == 0)
		return write_go(program->identity, size, id, head->n_descsz);
	return false;
}

static uint64_t padded(uint64_t size, uint64_t align)
{
	return (size + align - 1) / align * align;
}

static bool read_notes(struct program *program, const unsigned char *notes, size_t len,
                       uint64_t align)
{
	/* The same layout in both classes. */
	Elf64_Nhdr head;
	uint64_t at = 0;

	while (len - at >= sizeof(head)) {
		uint64_t name = at + sizeof(head), id, next;

		memcpy(&head, notes + at, sizeof(head));
		id = at + padded(sizeof(head) + (uint64_t)head.n_namesz, align);
		next = id + padded(head.n_descsz, align);
		if (id + head.n_descsz > len)
			return false;
		if (read_note(program, &head, notes + name, notes + id))
			return true;
		if (next > len)
			return false;
		at = next;
	}
	return false;
}

static bool read_segment(struct program *program, const struct elf *elf,
                         const struct segment *segment)
{
	unsigned char *notes;
	bool found;

	if (segment->type != PT_NOTE || segment->size == 0 || segment->size > NOTES_MAX)
		return false;
	notes = malloc(segment->size);
	found = notes != NULL && read_at(elf->fd, notes, segment->size, segment->offset) &&
	        read_notes(program, notes, segment->size, segment->align == 8 ? 8 : 4);
	free(notes);
	return found;
}

static bool read_build_id(struct program *program, int fd)
{
	struct segment segment;
	struct elf elf;

	if (!elf_open(&elf, fd))
		return false;
	for (uint32_t i = 0; i < elf.headers_len && i < HEADERS_MAX; i++)
		if (elf_segment(&segment, &elf, i) && read_segment(program, &elf, &segment))
			return true;
	return false;
}

/* The held file, for reading. */
static int reopen(const struct program *program)
{
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", program->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static void work_out_identity(struct program *program)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = reopen(program);

	if (fd >= 0 && read_build_id(program, fd))
		return;
	snprintf(program->identity, sizeof(program->identity), "size:%lld,mtime:%lld.%09ld",
	         (long long)program->size, (long long)program->mtime.tv_sec,
	         program->mtime.tv_nsec);
}

static bool same_content(const struct program *a, const struct program *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       a->mtime.tv_sec == b->mtime.tv_sec && a->mtime.tv_nsec == b->mtime.tv_nsec;
}

static void identify(struct program *program)
{
	for (unsigned int i = 0; i < KNOWN_MAX; i++) {
		if (known[i].identity[0] != '\0' && same_content(&known[i], program)) {
			memcpy(program->identity, known[i].identity, sizeof(program->identity));
			return;
		}
	}
	work_out_identity(program);
	known[known_next] = *program;
	known[known_next].fd = -1;
	known_next = (known_next + 1) % KNOWN_MAX;
}

static void note_file(struct program *program, const struct stat *st)
{
	program->size = st->st_size;
	program->mtime = st->st_mtim;
	program->dev = st->st_dev;
	program->ino = st->st_ino;
}

static bool is_file(const struct stat *st, const struct program *program)
{
	return st->st_dev == program->dev && st->st_ino == program->ino;
}

/* Is this another regular file than the running one, and begins with "#!"? -ENOENT: nothing
 * that could be executed lies here. */
static int looks_like_script(int folder, const char *path, const struct program *program)
{
	SG_CLEANUP(sg_fd_cleanup)
	int fd = openat(folder, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	char start[2];

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0)
		return -ENOENT;
	return !is_file(&st, program) && read_at(fd, start, 2, 0) && memcmp(start, "#!", 2) == 0;
}

static int search_path(int folder, const char *name, const struct program *program)
{
	const char *path = getenv("PATH");
	char candidate[PATH_MAX];
	int r = -ENOENT;

	while (r < 0 && path != NULL && *path != '\0') {
		const char *end = strchrnul(path, ':');
		int len = (int)(end - path);

		if (snprintf(candidate, sizeof(candidate), "%.*s%s%s", len, path,
		             len > 0 ? "/" : "./", name) < (int)sizeof(candidate))
			r = looks_like_script(folder, candidate, program);
		path = *end == ':' ? end + 1 : end;
	}
	return r;
}

static bool is_script(pid_t pid, const char *argv0, const struct program *program)
{
	SG_CLEANUP(sg_fd_cleanup) int folder = -1;
	char path[40];
	int r;

	/* A relative name was meant from where the worker was started. */
	snprintf(path, sizeof(path), "/proc/%ld/cwd", (long)pid);
	folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (strchr(argv0, '/') == NULL)
		return search_path(folder < 0 ? AT_FDCWD : folder, argv0, program) > 0;
	r = folder < 0 ? -ENOENT : looks_like_script(folder, argv0, program);
	return (r < 0 ? looks_like_script(AT_FDCWD, argv0, program) : r) > 0;
}

static int hold(struct program *program, pid_t pid)
{
	char link[40];
	struct stat st;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/%ld/exe", (long)pid);
	program->fd = open(link, O_PATH | O_CLOEXEC);
	if (program->fd < 0)
		return -errno;
	program->fd = sg_fd_above_stdio_take(program->fd);
	n = readlink(link, program->path, sizeof(program->path) - 1);
	if (program->fd < 0 || n < 0 || fstat(program->fd, &st) < 0)
		return -errno;
	program->path[n] = '\0';
	note_file(program, &st);
	return 0;
}

int program_of(struct program *ret_program, pid_t pid, const char *argv0)
{
	struct program program = { .fd = -1 };
	int r = hold(&program, pid);

	if (r < 0) {
		program_done(&program);
		return r;
	}
	program.script = is_script(pid, argv0, &program);
	identify(&program);
	*ret_program = program;
	return 0;
}

static bool refuse(char *reason, size_t reason_size, const char *text)
{
	snprintf(reason, reason_size, "%s", text);
	return false;
}

/* Not the change time: that moves when the name of the file is taken away, which is what an
 * ordinary deployment does. */
bool program_restartable(const struct program *program, char *reason, size_t reason_size)
{
	struct program now = { .fd = -1 };
	struct stat st;

	if (program->fd < 0)
		return refuse(reason, reason_size, "its file is not held");
	if (program->script)
		return refuse(reason, reason_size, "it is a script");
	if (fstat(program->fd, &st) < 0)
		return refuse(reason, reason_size, strerror(errno));
	note_file(&now, &st);
	if (!same_content(&now, program))
		return refuse(reason, reason_size, "the file was overwritten in place");
	if ((st.st_mode & 0111) == 0)
		return refuse(reason, reason_size, "the file may not be executed any more");
	return true;
}

void program_copy(struct program *ret_copy, const struct program *program)
{
	*ret_copy = *program;
	if (program->fd >= 0)
		ret_copy->fd = sg_fd_dup(program->fd);
}

void program_done(struct program *program)
{
	program->fd = sg_fd_close(program->fd);
}
