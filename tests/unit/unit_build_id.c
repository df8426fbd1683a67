/* SPDX-License-Identifier: MIT */
/*
 * The identity in the notes of a program, of programs made for it: both classes, Go's, and those
 * whose headers and notes do not add up.
 */
#include "unit.h"

#include "segue/build_id.h"

#include <elf.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NATIVE_DATA ELFDATA2LSB
#else
#define NATIVE_DATA ELFDATA2MSB
#endif

#define NOTES_AT 256

/* What a program is made of; zero is the rule. */
struct program {
	bool narrow;
	unsigned char data; /* 0: as this machine's */
	uint16_t header_size;
	uint64_t align;   /* 0: 4 */
	uint64_t missing; /* so many bytes at the end */
	const unsigned char *notes;
	size_t notes_len;
};

static unsigned char notes[1000];
static size_t notes_len;

static void put(const void *data, size_t len, size_t align)
{
	CHECK(notes_len + len + align < sizeof(notes));
	memcpy(notes + notes_len, data, len);
	notes_len += len;
	while (notes_len % align != 0)
		notes[notes_len++] = 0;
}

static void note(const char *name, size_t name_len, uint32_t type, const char *id, size_t id_len)
{
	Elf64_Nhdr head = { (uint32_t)name_len, (uint32_t)id_len, type };

	put(&head, sizeof(head), 4);
	put(name, name_len, 4);
	put(id, id_len, 4);
}

static void write_wide(unsigned char *file, const struct program *program)
{
	Elf64_Ehdr head = { .e_phoff = sizeof(head),
		            .e_phentsize = program->header_size ? program->header_size
		                                                : sizeof(Elf64_Phdr),
		            .e_phnum = 1 };
	Elf64_Phdr segment = { .p_type = PT_NOTE,
		               .p_offset = NOTES_AT,
		               .p_filesz = notes_len,
		               .p_align = program->align ? program->align : 4 };

	memcpy(head.e_ident, ELFMAG, SELFMAG);
	head.e_ident[EI_CLASS] = ELFCLASS64;
	head.e_ident[EI_DATA] = program->data ? program->data : NATIVE_DATA;
	memcpy(file, &head, sizeof(head));
	memcpy(file + sizeof(head), &segment, sizeof(segment));
}

static void write_narrow(unsigned char *file, const struct program *program)
{
	Elf32_Ehdr head = { .e_phoff = sizeof(head),
		            .e_phentsize = sizeof(Elf32_Phdr),
		            .e_phnum = 1 };
	Elf32_Phdr segment = { .p_type = PT_NOTE,
		               .p_offset = NOTES_AT,
		               .p_filesz = (Elf32_Word)notes_len,
		               .p_align = 4 };

	memcpy(head.e_ident, ELFMAG, SELFMAG);
	head.e_ident[EI_CLASS] = ELFCLASS32;
	head.e_ident[EI_DATA] = program->data ? program->data : NATIVE_DATA;
	memcpy(file, &head, sizeof(head));
	memcpy(file + sizeof(head), &segment, sizeof(segment));
}

/* The identity of a program with the notes that are there; "" where it has none. */
static const char *identity(const struct program *program)
{
	static char text[BUILD_ID_MAX];
	unsigned char file[NOTES_AT + sizeof(notes)] = { 0 };
	size_t len = NOTES_AT + notes_len;
	int fd = (int)MUST(open(".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));

	if (program->narrow)
		write_narrow(file, program);
	else
		write_wide(file, program);
	memcpy(file + NOTES_AT, notes, notes_len);
	len -= program->missing < len ? program->missing : len;
	CHECK_INT(MUST(pwrite(fd, file, len, 0)), len);
	if (!build_id_read(text, fd))
		text[0] = '\0';
	MUST(close(fd));
	return text;
}

static const struct program usual;

UNIT_CASE(a_build_id_is_read_in_both_classes)
{
	struct program narrow = { .narrow = true };

	note("XYZ", 4, 9, "other", 5);
	note("GNU", 4, NT_GNU_BUILD_ID, "\x01\xab\xff", 3);
	CHECK_STRING(identity(&usual), "build-id:01abff");
	CHECK_STRING(identity(&narrow), "build-id:01abff");
}

UNIT_CASE(notes_may_be_aligned_to_eight)
{
	struct program program = { .align = 8 };
	Elf64_Nhdr head = { 4, 2, NT_GNU_BUILD_ID };

	put(&head, sizeof(head), 4);
	put("GNU", 4, 8);
	put("\x12\x34", 2, 8);
	CHECK_STRING(identity(&program), "build-id:1234");
}

UNIT_CASE(of_a_go_id_the_hash_of_the_content_is_taken)
{
	note("Go\0", 4, 4, "action/main/content", 19);
	CHECK_STRING(identity(&usual), "go-id:content");
	notes_len = 0;
	note("Go\0", 4, 4, "alone", 5);
	CHECK_STRING(identity(&usual), "go-id:alone");
}

UNIT_CASE(a_go_id_that_is_no_text_is_none)
{
	static const char *const ids[] = { "with blank", "ends/", "\x7f", "caf\xc3\xa9" };
	char longest[66];

	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		notes_len = 0;
		note("Go\0", 4, 4, ids[i], strlen(ids[i]));
		CHECK_STRING(identity(&usual), "");
	}
	memset(longest, 'x', sizeof(longest));
	notes_len = 0;
	note("Go\0", 4, 4, longest, 65);
	CHECK_STRING(identity(&usual), "");
	notes_len = 0;
	note("Go\0", 4, 4, longest, 64);
	CHECK_INT(strlen(identity(&usual)), strlen("go-id:") + 64);
}

UNIT_CASE(what_does_not_add_up_has_no_identity)
{
	struct program foreign = { .data = (unsigned char)(ELFDATA2LSB + ELFDATA2MSB -
		                                           NATIVE_DATA) };
	struct program odd = { .header_size = 7 };
	struct program cut = { .missing = 1 };
	struct program headless = { .missing = NOTES_AT };
	struct program short_head = { .missing = sizeof(notes) };

	CHECK_STRING(identity(&usual), ""); /* no notes */
	note("GNU", 4, NT_GNU_BUILD_ID, "\x01\x02\x03\x04", 4);
	CHECK_STRING(identity(&usual), "build-id:01020304");
	CHECK_STRING(identity(&foreign), "");
	CHECK_STRING(identity(&odd), "");
	CHECK_STRING(identity(&cut), "");
	CHECK_STRING(identity(&headless), "");
	CHECK_STRING(identity(&short_head), "");
	/* Longer than the notes are. */
	((Elf64_Nhdr *)notes)->n_descsz = 400;
	CHECK_STRING(identity(&usual), "");
	((Elf64_Nhdr *)notes)->n_descsz = 0;
	CHECK_STRING(identity(&usual), "");
	((Elf64_Nhdr *)notes)->n_descsz = 4;
	((Elf64_Nhdr *)notes)->n_namesz = 0xfffffff0;
	CHECK_STRING(identity(&usual), "");
}

UNIT_CASE(a_build_id_that_is_too_long_is_none)
{
	char id[40] = { 0 };

	note("GNU", 4, NT_GNU_BUILD_ID, id, 33);
	CHECK_STRING(identity(&usual), "");
}

UNIT_MAIN
