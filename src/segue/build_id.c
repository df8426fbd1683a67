/* SPDX-License-Identifier: MIT */
/*
 * See build_id.h. The headers and notes of a file are not trusted: the kernel runs a program
 * whatever its notes say.
 * Source: elf(5), Go's cmd/internal/buildid
 */
#include "segue/build_id.h"

#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADERS_MAX 64
#define NOTES_MAX   (64 << 10)
#define ID_MAX      32
#define GO_BUILD_ID 4

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
static bool read_note(char *ret_identity, const Elf64_Nhdr *head, const unsigned char *name,
                      const unsigned char *id)
{
	if (head->n_namesz != 4 || head->n_descsz == 0)
		return false;
	if (head->n_type == NT_GNU_BUILD_ID && memcmp(name, "GNU", 4) == 0 &&
	    head->n_descsz <= ID_MAX) {
		write_hex(ret_identity, BUILD_ID_MAX, id, head->n_descsz);
		return true;
	}
	if (head->n_type == GO_BUILD_ID && memcmp(name, "Go\0", 4) == 0)
		return write_go(ret_identity, BUILD_ID_MAX, id, head->n_descsz);
	return false;
}

static uint64_t padded(uint64_t size, uint64_t align)
{
	return (size + align - 1) / align * align;
}

static bool read_notes(char *ret_identity, const unsigned char *notes, size_t len, uint64_t align)
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
		if (read_note(ret_identity, &head, notes + name, notes + id))
			return true;
		if (next > len)
			return false;
		at = next;
	}
	return false;
}

static bool read_segment(char *ret_identity, const struct elf *elf, const struct segment *segment)
{
	unsigned char *notes;
	bool found;

	if (segment->type != PT_NOTE || segment->size == 0 || segment->size > NOTES_MAX)
		return false;
	notes = malloc(segment->size);
	found = notes != NULL && read_at(elf->fd, notes, segment->size, segment->offset) &&
	        read_notes(ret_identity, notes, segment->size, segment->align == 8 ? 8 : 4);
	free(notes);
	return found;
}

bool build_id_read(char ret_identity[static BUILD_ID_MAX], int fd)
{
	struct segment segment;
	struct elf elf;

	if (!elf_open(&elf, fd))
		return false;
	for (uint32_t i = 0; i < elf.headers_len && i < HEADERS_MAX; i++)
		if (elf_segment(&segment, &elf, i) && read_segment(ret_identity, &elf, &segment))
			return true;
	return false;
}
