/* top.c - the views on a whole terminal (ncurses), once a second. */
#include "droverctl/top.h"

#include <curses.h>
#include <langinfo.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "droverctl/guard.h"
#include "droverctl/processes.h"
#include "droverctl/view.h"
#include "shm/scoreboard.h"

#define PICTURE_MS          1000
#define PATH_BYTES          512
#define ESCAPE_KEY          27
#define CONTROL_KEY(letter) ((letter)&0x1f)

static const struct pane {
    int key;
    const char *name;
    void (*show)(struct view *view);
} panes[] = {
    {'n', "nodes", show_nodes},
    {'r', "requests", show_requests},
    {'m', "models", show_models},
    {'w', "workers", show_workers},
};

struct top {
    char path[PATH_BYTES]; /* of the scoreboard */
    bool color;
    const struct pane *pane;
    int first; /* line of the pane that is shown first */
};

/* ---- a picture --------------------------------------------------------------------------- */

/* The attribute that one of our own colour sequences stands for (format/table.c has them). */
static attr_t attribute(const char *sequence, size_t n)
{
    if (n != 3 && n != 4)
        return A_NORMAL;
    switch (sequence[n - 2]) {
    case '1':
        return n == 3 ? A_BOLD : COLOR_PAIR(COLOR_RED); /* 1, 31 */
    case '2':
        return n == 3 ? A_DIM : COLOR_PAIR(COLOR_GREEN); /* 2, 32 */
    case '3':
        return COLOR_PAIR(COLOR_YELLOW); /* 33 */
    default:
        return A_NORMAL; /* 0 */
    }
}

/* Draws text[0..n), one line with colour sequences, on line y. */
static void draw_line(int y, const char *text, size_t n)
{
    const char *end = text + n;

    (void)move(y, 0);
    while (text < end) {
        const char *escape = memchr(text, '\x1b', (size_t)(end - text));
        const char *stop = escape == NULL ? end : escape;

        (void)addnstr(text, (int)(stop - text));
        if (escape == NULL)
            break;
        stop = memchr(escape, 'm', (size_t)(end - escape));
        if (stop == NULL)
            break;
        (void)attrset((int)attribute(escape + 1, (size_t)(stop - escape)));
        text = stop + 1;
    }
    (void)attrset(A_NORMAL);
}

/* Draws lines `skip` and on of `text` from line y up to, not including, y_end; the line after
 * the last drawn. */
static int draw(const char *text, int skip, int y, int y_end)
{
    while (*text != '\0' && y < y_end) {
        size_t n = strcspn(text, "\n");

        if (skip > 0)
            skip--;
        else
            draw_line(y++, text, n);
        text += n + (text[n] == '\n');
    }
    return y;
}

static int lines_of(const char *text)
{
    int lines = 0;

    while ((text = strchr(text, '\n')) != NULL) {
        lines++;
        text++;
    }
    return lines;
}

static void draw_footer(const struct top *top, int below)
{
    char text[200];
    int n = 0;

    for (size_t i = 0; i < ARRAY_LEN(panes) && n >= 0 && (size_t)n < sizeof(text); i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n,
                      &panes[i] == top->pane ? "[%s]  " : "%s  ", panes[i].name);
    (void)attrset(A_REVERSE);
    (void)mvaddnstr(LINES - 1, 0, text, COLS);
    (void)addnstr("q quit", COLS);
    if (below > 0)
        (void)printw("  %d more below", below);
    (void)attrset(A_NORMAL);
    (void)clrtoeol();
}

static void draw_board(struct top *top, const struct scoreboard *board)
{
    struct view head = {.board = board,
                        .now_mono_us = clock_mono_us(),
                        .style = {.color = top->color,
                                  .utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0,
                                  .width = COLS > 0 ? (unsigned)COLS : 80},
                        .out = BUF_INIT};
    struct view body = head;
    struct processes processes;
    int y, room, lines;

    processes_survey(&processes, board, head.now_mono_us);
    show_status(&head);
    view_add_warnings(&head, &processes);
    top->pane->show(&body);
    if (head.out.failed || body.out.failed) {
        (void)mvaddstr(0, 0, "out of memory");
    } else {
        y = draw(buf_cstr(&head.out), 0, 0, LINES - 1) + 1;
        room = LINES - 1 - y > 0 ? LINES - 1 - y : 0;
        lines = lines_of(buf_cstr(&body.out));
        if (top->first > lines - room)
            top->first = lines > room ? lines - room : 0;
        (void)draw(buf_cstr(&body.out), top->first, y, LINES - 1);
        draw_footer(top, lines - top->first - room);
    }
    buf_finish(&head.out);
    buf_finish(&body.out);
}

static void draw_picture(struct top *top)
{
    struct scoreboard *board;
    struct error err = {0};
    int rc = scoreboard_attach(&board, top->path, &err);

    (void)erase();
    if (rc == 0) {
        draw_board(top, board);
        scoreboard_detach(board);
    } else {
        draw_line(0, rc == DRV_ENOENT ? "drover is not running" : err.text,
                  strlen(rc == DRV_ENOENT ? "drover is not running" : err.text));
        draw_footer(top, 0);
    }
    (void)refresh();
}

/* ---- the operator ------------------------------------------------------------------------ */

/* False: enough. */
static bool obey(struct top *top, int key)
{
    switch (key) {
    case 'q':
    case 'Q':
    case ESCAPE_KEY:
    case CONTROL_KEY('c'):
        return false;
    case KEY_DOWN:
        top->first++; /* draw_board() knows how far it can go */
        return true;
    case KEY_UP:
        top->first -= top->first > 0;
        return true;
    case KEY_NPAGE:
        top->first += LINES / 2;
        return true;
    case KEY_PPAGE:
        top->first = top->first > LINES / 2 ? top->first - LINES / 2 : 0;
        return true;
    default:
        break;
    }
    for (size_t i = 0; i < ARRAY_LEN(panes); i++) {
        if (key == panes[i].key) {
            top->pane = &panes[i];
            top->first = 0;
        }
    }
    return true;
}

static void colours(void)
{
    (void)start_color();
    (void)use_default_colors();
    (void)init_pair(COLOR_RED, COLOR_RED, -1);
    (void)init_pair(COLOR_GREEN, COLOR_GREEN, -1);
    (void)init_pair(COLOR_YELLOW, COLOR_YELLOW, -1);
}

int top_run(const char *runtime_dir, bool color)
{
    struct top top = {.color = color, .pane = &panes[0]};
    SCREEN *screen;
    int key;

    if (isatty(STDIN_FILENO) != 1 || isatty(STDOUT_FILENO) != 1) {
        (void)fprintf(stderr, "droverctl: top needs a terminal; try status\n");
        return EXIT_STATUS_FAILED;
    }
    (void)snprintf(top.path, sizeof(top.path), "%s/%s", runtime_dir, SCOREBOARD_FILE_NAME);
    guard_keep_terminal();
    screen = newterm(NULL, stdout, stdin);
    if (screen == NULL) {
        (void)fprintf(stderr, "droverctl: top cannot use this kind of terminal\n");
        return EXIT_STATUS_FAILED;
    }
    (void)raw(); /* so that ^C leaves the terminal as it was */
    (void)noecho();
    (void)curs_set(0);
    (void)keypad(stdscr, true);
    (void)set_escdelay(25);
    if (top.color && has_colors())
        colours();
    else
        top.color = false;
    timeout(PICTURE_MS);
    do {
        draw_picture(&top);
        key = getch(); /* ERR: a second has passed, or the window has another size */
    } while (obey(&top, key));
    (void)endwin();
    delscreen(screen);
    return EXIT_STATUS_OK;
}
