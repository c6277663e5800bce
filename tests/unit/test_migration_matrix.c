/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migration_matrix.c - every row of both transition tables (proto.c) meets every fault: source
 * or target is killed or stopped, the link is cut in the middle of the message or hangs, a bit
 * flips. After each at most one copy of the guest runs, the disk's lock is its, whoever does not
 * run it has a sentence, and no descriptor or thread is left.
 *
 * Each side is a process with a machine without vcpus (test_migration_faults.c has real guests); in
 * between the test follows both tables, brings the sides into the row's state, and does the harm.
 * Messages that a migration without a fault does not have are provoked, or made here. Cases are
 * processes of their own, some at a time: most of what they do is wait.
 */
#include "matrix_env.h"

#include "exactly.h"

#define JOBS	 6u  /* cases at a time */
#define SILENCE	 250 /* ms, where somebody has to wait for it; more after each miss */
#define PATIENCE 5000
#define ATTEMPTS 16 /* some rows are a matter of the moment */
#define WAITS	 3  /* misses after which the silence is not made longer any more */
#define MISSED	 77 /* exit status: the row did not come up */

enum fault {
	FAULT_NONE,
	FAULT_KILL_SOURCE,
	FAULT_KILL_TARGET,
	FAULT_STOP_SOURCE,
	FAULT_STOP_TARGET,
	FAULT_CUT,
	FAULT_HANG,
	FAULT_FLIP,
	FAULTS,
};
static const char *const fault_names[] = { "nothing",	     "source killed",  "target killed",
					   "source stopped", "target stopped", "cut",
					   "hang",	     "bit flipped" };

/* --- in between --------------------------------------------------------------------------------
 */

/* From one side to the other. */
struct way {
	int from, to;
	enum side sender;
	uint32_t number; /* of the next section that is delivered */
	bool over;	 /* the sender says nothing more, or is not heard any more */
	size_t len;	 /* of a section that waits to be delivered; 0: none */
	uint8_t buf[STREAM_HEADER + STREAM_PAYLOAD_MAX];
};

struct link {
	struct way ways[2]; /* by sender */
	pid_t pid[2];
	enum proto_state state[2]; /* of the sides, as far as can be seen from here */
	const struct proto_table *table;
	const struct proto_rule *row; /* NULL: none, a plain migration */
	enum fault fault;
	bool fired;
	enum side stopped, killed;
	bool ready_delivered, commit_delivered; /* whole */
};

static const struct proto_table *table_of(enum side side)
{
	return side == SOURCE ? &proto_source : &proto_target;
}

/* Messages that come with a fault only. */
static bool unusual(unsigned int msg)
{
	return msg == MSG_REFUSE || msg == MSG_ABORT || msg == MSG_ABORTED;
}

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

static void sever(struct link *l)
{
	for (unsigned int i = 0; i < 2; i++) {
		shutdown(l->ways[i].to, SHUT_RDWR);
		l->ways[i].over = true;
		l->ways[i].len = 0;
	}
}

static void deliver(struct link *l, struct way *w, size_t len)
{
	const uint8_t *p = w->buf;

	while (len) {
		ssize_t n = send(w->to, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			return; /* nobody listens any more */
		p += n;
		len -= (size_t)n;
	}
	l->commit_delivered |= get_le16(w->buf) == MSG_COMMIT;
	l->ready_delivered |= get_le16(w->buf) == MSG_READY;
}

/* A section of ours, with the number that is due. */
static void make(struct way *w, enum proto_msg msg, const char *payload)
{
	size_t len = strlen(payload);

	put_le16(w->buf, msg);
	put_le16(w->buf + 2, 0);
	put_le32(w->buf + 4, (uint32_t)len);
	put_le32(w->buf + 8, w->number);
	memcpy(w->buf + STREAM_HEADER, payload, len);
	put_le32(w->buf + 12, stream_crc(w->buf, len));
	w->len = STREAM_HEADER + len;
	/* What the sender itself says has the wrong number now. */
	w->over = true;
}

static void kill_side(struct link *l, enum side side)
{
	enum side was = side;

	kill(l->pid[side], SIGKILL);
	if (waitpid(l->pid[side], NULL, 0) != l->pid[side])
		_exit(1);
	l->pid[side] = 0;
	l->killed = side;
	/* Its lock goes with it. */
	__atomic_compare_exchange_n(&sh->owner, &was, NOBODY, false, __ATOMIC_SEQ_CST,
				    __ATOMIC_SEQ_CST);
}

/* Half of it arrives, or all with a wrong bit: that is not it. */
static void damage(struct link *l, struct way *w)
{
	bool ready = l->ready_delivered, commit = l->commit_delivered;

	if (l->fault == FAULT_FLIP)
		w->buf[w->len * 5 / 7] ^= 0x08;
	deliver(l, w, l->fault == FAULT_FLIP ? w->len : w->len / 2);
	l->ready_delivered = ready;
	l->commit_delivered = commit;
}

/* The message waits in w. What a process had sent before it died still arrives. */
static void do_harm(struct link *l, struct way *w)
{
	enum side victim =
		l->fault == FAULT_KILL_SOURCE || l->fault == FAULT_STOP_SOURCE ? SOURCE : TARGET;

	l->fired = sh->fired = true;
	switch (l->fault) {
	case FAULT_KILL_SOURCE:
	case FAULT_KILL_TARGET:
		kill_side(l, victim);
		if (w->sender == victim)
			deliver(l, w, w->len);
		sever(l);
		break;
	case FAULT_STOP_SOURCE:
	case FAULT_STOP_TARGET:
		kill(l->pid[victim], SIGSTOP);
		l->stopped = victim;
		deliver(l, w, w->len);
		break;
	case FAULT_CUT:
		damage(l, w);
		sever(l);
		break;
	case FAULT_HANG:
		l->ways[0].over = l->ways[1].over = true;
		break;
	case FAULT_FLIP:
		damage(l, w);
		break;
	default:
		deliver(l, w, w->len);
		break;
	}
	w->len = 0;
}

static bool is_row(const struct link *l, enum side side, enum proto_dir dir, unsigned int msg)
{
	return l->row && !l->fired && l->table == table_of(side) && l->row->dir == dir &&
	       l->row->in == l->state[side] && l->row->msg == msg;
}

/*
 * The receiver is to hear this message in a later state, to which another one leads; which does not
 * come behind this one, as STATE would.
 */
static bool too_early(const struct link *l, enum side receiver, unsigned int msg)
{
	int next = proto_next(table_of(receiver), l->state[receiver], PROTO_RECV, msg);

	return l->row && !l->fired && l->table == table_of(receiver) && l->row->dir == PROTO_RECV &&
	       l->row->msg == msg && l->state[receiver] < l->row->in && l->row->in < PROTO_STATE &&
	       next == (int)l->state[receiver];
}

/* ... or must not leave its state before the row has come up. */
static bool too_far(const struct link *l, enum side receiver, unsigned int msg)
{
	int next = proto_next(table_of(receiver), l->state[receiver], PROTO_RECV, msg);

	return l->row && !l->fired && l->table == table_of(receiver) && l->row->msg != msg &&
	       l->state[receiver] == l->row->in && next >= 0 &&
	       (enum proto_state)next != l->row->in;
}

static void take_transition(struct link *l, enum side side, enum proto_dir dir, unsigned int msg)
{
	int next = proto_next(table_of(side), l->state[side], dir, msg);

	if (next >= 0)
		l->state[side] = (enum proto_state)next;
}

/* A section has come from its sender, or still waits. */
static void pass_on(struct link *l, struct way *w)
{
	enum side receiver = w->sender == SOURCE ? TARGET : SOURCE;
	unsigned int msg;

	if (!w->len) {
		size_t len;

		if (!read_exactly(w->from, w->buf, STREAM_HEADER) ||
		    !read_exactly(w->from, w->buf + STREAM_HEADER, get_le32(w->buf + 4))) {
			sever(l); /* who has ended neither speaks nor hears */
			return;
		}
		len = STREAM_HEADER + get_le32(w->buf + 4);
		msg = get_le16(w->buf);
		w->len = len;
		if (is_row(l, w->sender, PROTO_SEND, msg)) {
			take_transition(l, w->sender, PROTO_SEND, msg);
			do_harm(l, w);
		} else {
			take_transition(l, w->sender, PROTO_SEND, msg);
		}
		return; /* the sender's new state may be the one that is waited for */
	}
	msg = get_le16(w->buf);
	if (too_early(l, receiver, msg) || too_far(l, receiver, msg))
		return;
	if (is_row(l, receiver, PROTO_RECV, msg)) {
		take_transition(l, receiver, PROTO_RECV, msg);
		do_harm(l, w);
		return;
	}
	take_transition(l, receiver, PROTO_RECV, msg);
	w->number = get_le32(w->buf + 8) + 1;
	deliver(l, w, w->len);
	w->len = 0;
}

/* Has the side of the row come into its state? Then it is made to say, or to hear, the message. */
static void provoke(struct link *l)
{
	enum side side = l->table == &proto_source ? SOURCE : TARGET;
	struct way *to_it = &l->ways[side == SOURCE ? TARGET : SOURCE];

	if (!l->row || l->fired || !unusual(l->row->msg) || l->state[side] != l->row->in)
		return;
	if (l->row->dir == PROTO_RECV) {
		make(to_it, l->row->msg, "made by the test");
		if (side == SOURCE) { /* so the target is not to hear anything else either */
			l->ways[SOURCE].over = true;
			l->ways[SOURCE].len = 0;
			shutdown(l->ways[SOURCE].to, SHUT_WR);
		}
		take_transition(l, side, PROTO_RECV, l->row->msg);
		do_harm(l, to_it);
	} else if (side == SOURCE) {
		sh->cancel = true;
	} else if (l->row->msg == MSG_ABORTED && !to_it->over && !sh->fail_load &&
		   !sh->fail_claim) { /* it hears what it may not */
		make(to_it, MSG_PONG, "12345678");
		deliver(l, to_it, to_it->len);
		to_it->len = 0;
	}
}

static bool over(const struct link *l, enum side side)
{
	return !l->pid[side] || __atomic_load_n(&sh->side[side].ended, __ATOMIC_ACQUIRE);
}

/* Until both sides have come to an end; false: they do not. */
static bool run_link(struct link *l)
{
	uint64_t until = now_ms() + LIMIT_MS;

	while (!over(l, SOURCE) || !over(l, TARGET)) {
		struct pollfd p[2];

		if (now_ms() > until)
			return false;
		for (unsigned int i = 0; i < 2; i++) {
			struct way *w = &l->ways[i];

			provoke(l);
			p[i] = (struct pollfd){ .fd = w->over || w->len ? -1 : w->from,
						.events = POLLIN };
			if (w->len && !w->over)
				pass_on(l, w);
		}
		/* Who was stopped goes on when the other has given up. */
		if (l->stopped != NOBODY && over(l, l->stopped == SOURCE ? TARGET : SOURCE)) {
			kill(l->pid[l->stopped], SIGCONT);
			l->stopped = NOBODY;
		}
		poll(p, 2, 1);
		for (unsigned int i = 0; i < 2; i++) {
			provoke(l);
			if (p[i].fd >= 0 && !l->ways[i].over && readable(p[i].fd))
				pass_on(l, &l->ways[i]);
		}
	}
	return true;
}

/* --- one case ----------------------------------------------------------------------------------
 */

static char where[200];

#define check(what)                                                                             \
	do {                                                                                    \
		if (!(what)) {                                                                  \
			fprintf(stdout,                                                         \
				"# %s: not so: %s\n#   source %s, runs %d: %s\n#   target %s, " \
				"runs %d: %s\n",                                                \
				where, #what, migration_phase_name(sh->side[0].phase),          \
				sh->side[0].runs, sh->side[0].error,                            \
				migration_phase_name(sh->side[1].phase), sh->side[1].runs,      \
				sh->side[1].error);                                             \
			fflush(stdout);                                                         \
			_exit(1);                                                               \
		}                                                                               \
	} while (0)

static void check_copies(const struct link *l)
{
	enum migration_phase source = sh->side[SOURCE].phase, target = sh->side[TARGET].phase;
	bool target_runs = l->pid[TARGET] && sh->side[TARGET].runs;

	if (l->pid[TARGET]) {
		check((target == MIGRATION_COMPLETED) == sh->side[TARGET].runs);
		check(!target_runs || l->commit_delivered);
		check(target_runs || sh->side[TARGET].error[0]);
	}
	if (l->pid[SOURCE] && source == MIGRATION_HANDED_OVER) {
		check(l->ready_delivered); /* else nothing was handed over */
		check(!sh->side[SOURCE].runs && sh->side[SOURCE].error[0]);
		if (!target_runs) { /* a person has looked */
			sh->resume = true;
			for (unsigned int i = 0; i < 30000 && !sh->side[SOURCE].resumed; i++)
				usleep(1000);
			check(sh->side[SOURCE].resumed && sh->side[SOURCE].runs);
		}
	} else if (l->pid[SOURCE] && source == MIGRATION_COMPLETED) {
		check(!sh->side[SOURCE].runs && (target_runs || l->killed == TARGET));
	} else if (l->pid[SOURCE]) {
		check(sh->side[SOURCE].runs && sh->side[SOURCE].error[0]);
	}
	check(!(l->pid[SOURCE] && sh->side[SOURCE].runs && target_runs));
	if (l->pid[SOURCE] && sh->side[SOURCE].runs)
		check(sh->owner == SOURCE);
	if (target_runs)
		check(sh->owner == TARGET);
}

static void finish(struct link *l)
{
	sh->finish = true;
	if (l->stopped != NOBODY) /* it had come to its end before */
		kill(l->pid[l->stopped], SIGCONT);
	for (enum side i = SOURCE; i <= TARGET; i++) {
		int status;

		if (!l->pid[i])
			continue;
		check(waitpid(l->pid[i], &status, 0) == l->pid[i]);
		check(WIFEXITED(status) && !WEXITSTATUS(status));
		check(!sh->side[i].leaked);
	}
}

/* What has to be different for the row to come up. */
static void prepare(const struct proto_table *t, const struct proto_rule *r, enum fault fault,
		    unsigned int attempt)
{
	bool waits =
		fault == FAULT_HANG || fault == FAULT_STOP_SOURCE || fault == FAULT_STOP_TARGET;

	unsigned int misses = attempt - 1 < WAITS ? attempt - 1 : WAITS;

	*sh = (struct shared){ .owner = NOBODY,
			       .silence_ms = waits ? SILENCE << 2 * misses : PATIENCE };
	if (!r)
		return;
	/* To be cancelled between two sections; and what comes before PREPARED. */
	if (r->dir == PROTO_SEND && r->msg == MSG_ABORT && r->in <= PROTO_PREPARED)
		sh->bandwidth = KiB(64);
	else
		sh->slow_target = r->in == PROTO_RAM && r->msg != MSG_PREPARED;
	sh->refuse = t == &proto_target && r->dir == PROTO_SEND && r->msg == MSG_REFUSE;
	if (t == &proto_target && r->dir == PROTO_SEND && r->msg == MSG_ABORTED) {
		sh->fail_load = r->in == PROTO_LOADING;
		sh->fail_claim = r->in == PROTO_COMMITTED;
	}
}

static pid_t fork_side(enum side side, int pair[2], const int other[2])
{
	pid_t pid = fork();

	if (pid < 0)
		_exit(1);
	if (pid)
		return pid;
	close(pair[0]);
	close(other[0]);
	close(other[1]);
	run_side(side, pair[1]);
	_exit(1);
}

/* In a process of its own, which it ends. */
static void run_case(const struct proto_table *t, const struct proto_rule *r, enum fault fault,
		     unsigned int attempt)
{
	static struct link l;
	int pairs[2][2];

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		_exit(1);
	if (!getenv("SHOW") && !freopen("/dev/null", "w", stderr))
		_exit(1);
	snprintf(where, sizeof(where), "%s, %s %s in %s: %s", t ? t->name : "plain",
		 r && r->dir == PROTO_SEND ? "sends" : "hears", r ? proto_msg_name(r->msg) : "all",
		 r ? proto_state_name(r->in) : "any state", fault_names[fault]);
	prepare(t, r, fault, attempt);
	l = (struct link){
		.table = t, .row = r, .fault = fault, .stopped = NOBODY, .killed = NOBODY
	};
	for (enum side i = SOURCE; i <= TARGET; i++)
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[i]))
			_exit(1);
	for (enum side i = SOURCE; i <= TARGET; i++) {
		l.pid[i] = fork_side(i, pairs[i], pairs[!i]);
		l.ways[i].sender = i;
		l.ways[i].from = pairs[i][0];
		l.ways[i].to = pairs[!i][0];
	}
	for (enum side i = SOURCE; i <= TARGET; i++)
		close(pairs[i][1]);
	check(run_link(&l));
	if (getenv("SHOW"))
		fprintf(stderr, "# %s%s\n#   source %s: %s\n#   target %s: %s\n", where,
			l.fired ? "" : " (missed)", migration_phase_name(sh->side[0].phase),
			sh->side[0].error, migration_phase_name(sh->side[1].phase),
			sh->side[1].error);
	check_copies(&l);
	finish(&l);
	_exit(r && !l.fired ? MISSED : 0);
}

/* --- all of them -------------------------------------------------------------------------------
 */

/*
 * Rows that nothing from outside brings about: no wait lies between the side's coming into that
 * state and its next message, and nothing can fail there but memory.
 */
static bool out_of_reach(const struct proto_table *t, const struct proto_rule *r)
{
	if (t == &proto_source)
		return (r->in == PROTO_START && r->dir == PROTO_RECV) ||
		       (r->msg == MSG_ABORT && (r->in == PROTO_STATE || r->in == PROTO_READY));
	return r->in == PROTO_HELLO && r->dir == PROTO_SEND && r->msg == MSG_ABORTED;
}

struct job {
	const struct proto_table *table;
	const struct proto_rule *row;
	enum fault fault;
	unsigned int attempts;
	pid_t pid;
};

static void start_job(struct job *j)
{
	j->attempts++;
	j->pid = fork();
	assert_true(j->pid >= 0);
	if (!j->pid)
		run_case(j->table, j->row, j->fault, j->attempts);
}

/* One of the running ones has ended. True if it has passed, or goes into another attempt. */
static bool end_job(struct job *jobs, unsigned int n, unsigned int *running, unsigned int *missed)
{
	int status;
	pid_t pid = wait(&status);
	unsigned int i = 0;

	assert_true(pid > 0);
	while (i < n && jobs[i].pid != pid)
		i++;
	assert_true(i < n);
	jobs[i].pid = 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == MISSED && jobs[i].attempts < ATTEMPTS) {
		start_job(&jobs[i]);
		return true;
	}
	(*running)--;
	if (WIFEXITED(status) && WEXITSTATUS(status) == MISSED) {
		print_message("# never came up: %s %s %s in %s, %s\n", jobs[i].table->name,
			      jobs[i].row->dir == PROTO_SEND ? "sends" : "hears",
			      proto_msg_name(jobs[i].row->msg), proto_state_name(jobs[i].row->in),
			      fault_names[jobs[i].fault]);
		(*missed)++;
	}
	return WIFEXITED(status) && (!WEXITSTATUS(status) || WEXITSTATUS(status) == MISSED);
}

/*
 * Without a fault only what no plain migration has. Who is stopped and goes on later matters when
 * the guest may be either's.
 */
static bool matters(const struct proto_rule *r, enum fault f)
{
	if (f == FAULT_NONE)
		return unusual(r->msg);
	if (f == FAULT_STOP_SOURCE || f == FAULT_STOP_TARGET)
		return r->in >= PROTO_LOADING;
	return true;
}

static unsigned int list_jobs(struct job *jobs)
{
	const struct proto_table *tables[] = { &proto_source, &proto_target };
	unsigned int n = 0;

	jobs[n++] = (struct job){ .fault = FAULT_NONE };
	for (unsigned int t = 0; t < ARRAY_SIZE(tables); t++)
		for (unsigned int r = 0; r < tables[t]->n; r++)
			for (enum fault f = FAULT_NONE; f < FAULTS; f++) {
				const struct proto_rule *rule = &tables[t]->rules[r];

				if (!out_of_reach(tables[t], rule) && matters(rule, f))
					jobs[n++] = (struct job){ .table = tables[t],
								  .row = rule,
								  .fault = f };
			}
	return n;
}

static void test_every_row(void **state)
{
	unsigned int most = (proto_source.n + proto_target.n) * FAULTS + 1, n, next = 0;
	struct job *jobs = calloc(most, sizeof(*jobs));
	unsigned int running = 0, failed = 0, missed = 0;

	(void)state;
	assert_non_null(jobs);
	n = list_jobs(jobs);
	while (next < n || running) {
		if (next < n && running < JOBS) {
			start_job(&jobs[next++]);
			running++;
		} else if (!end_job(jobs, n, &running, &missed)) {
			failed++;
		}
	}
	free(jobs);
	print_message("# %u cases, %u of them failed, %u never came up\n", n, failed, missed);
	assert_int_equal(failed, 0);
	assert_int_equal(missed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_row),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
