//! From a line to a [`Command`]. Before: [`super::words`]; after: EL2.

use super::MAX_LINE;
use super::words::{Word, WordError, Words};
use core::fmt;
use salp_hvc::calls::{MAX_CLONES, MAX_CONFIG, NAME, RESERVE_ALL};

/// A VM or a snapshot, as a person names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// By its name.
    Name(&'a str),
    /// By its identifier: `#7`.
    Id(u64),
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => write!(f, "#{id}"),
        }
    }
}

/// What `clone` asks for. See [`CloneRequest`](salp_hvc::calls::CloneRequest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cloning<'a> {
    /// A VM or a snapshot.
    pub source: Target<'a>,
    /// How many: 1 to [`MAX_CLONES`].
    pub count: u32,
    /// What the names are made of; `None` for the source's name.
    pub name: Option<&'a str>,
    /// `key=value` lines, each ended by a line feed; no key twice.
    pub config: &'a str,
    /// For how much of its RAM each clone has frames set aside, in percent.
    pub reserve: u32,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// List VMs and snapshots.
    List,
    /// Show all that is known of one.
    Info(Target<'a>),
    /// Make clones.
    Clone(Cloning<'a>),
    /// Freeze a VM.
    Freeze(Target<'a>),
    /// Let it go on.
    Unfreeze(Target<'a>),
    /// Keep its present state.
    Snapshot {
        /// The VM.
        vm: Target<'a>,
        /// The name of the snapshot to be.
        name: &'a str,
    },
    /// Bring it back to a state that was kept.
    Revert {
        /// The VM.
        vm: Target<'a>,
        /// The snapshot.
        to: Target<'a>,
    },
    /// Press a VM's power button.
    Shutdown(Target<'a>),
    /// Destroy a VM or a snapshot.
    Destroy(Target<'a>),
    /// Start a VM that is off.
    Start(Target<'a>),
    /// Turn a VM off.
    Stop(Target<'a>),
    /// Start a VM again.
    Reset(Target<'a>),
    /// List images.
    Images,
    /// Count the memory of a VM, or of the machine.
    Stats(Option<Target<'a>>),
    /// Show the NICs of a VM, or of all.
    Net(Option<Target<'a>>),
    /// Show a VM's console.
    Console(Target<'a>),
    /// Show the log of all VMs.
    Log,
    /// Replace the running hypervisor by this image; by a fresh copy of itself if it is 0.
    Handover(u64),
    /// Give the hypervisor before it up.
    Confirm,
    /// Show [`FORMS`].
    Help,
}

/// The form of a command.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// The command's name, then its arguments.
    pub usage: &'static str,
    /// What it does.
    pub about: &'static str,
    read: for<'a> fn(&mut Arguments<'a>) -> Result<Command<'a>, CommandError<'a>>,
}

impl Form {
    /// Returns the command's name.
    pub fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }
}

/// Every command: [`parse`] reads by this table, and `help` shows it.
pub static FORMS: [Form; 20] = [
    Form { usage: "list", about: "lists VMs and snapshots", read: |_| Ok(Command::List) },
    Form {
        usage: "info VM",
        about: "shows all that is known of a VM or snapshot; VM is a name or #ID",
        read: |arguments| Ok(Command::Info(arguments.target()?)),
    },
    Form {
        usage: "clone VM [--count N] [--name P] [--config K=V]... [--reserve none|all|N%]",
        about: "makes N clones of a VM or snapshot, named P if N is 1, else P-1, P-2, ...; reserve is the part of their RAM \
                that has frames set aside (default none)",
        read: cloning,
    },
    Form {
        usage: "freeze VM",
        about: "stops a VM where it is",
        read: |arguments| Ok(Command::Freeze(arguments.target()?)),
    },
    Form {
        usage: "unfreeze VM",
        about: "lets a frozen VM go on",
        read: |arguments| Ok(Command::Unfreeze(arguments.target()?)),
    },
    Form {
        usage: "snapshot VM NAME",
        about: "keeps the present state of a VM",
        read: |arguments| Ok(Command::Snapshot { vm: arguments.target()?, name: name(arguments.word()?)? }),
    },
    Form {
        usage: "revert VM SNAPSHOT",
        about: "brings a VM back to the state of its snapshot",
        read: |arguments| Ok(Command::Revert { vm: arguments.target()?, to: arguments.target()? }),
    },
    Form {
        usage: "shutdown VM",
        about: "presses the power button of a VM",
        read: |arguments| Ok(Command::Shutdown(arguments.target()?)),
    },
    Form {
        usage: "destroy VM",
        about: "destroys a VM or snapshot",
        read: |arguments| Ok(Command::Destroy(arguments.target()?)),
    },
    Form {
        usage: "start VM",
        about: "starts a VM that is off",
        read: |arguments| Ok(Command::Start(arguments.target()?)),
    },
    Form {
        usage: "stop VM",
        about: "turns a VM off at once; it stays",
        read: |arguments| Ok(Command::Stop(arguments.target()?)),
    },
    Form {
        usage: "reset VM",
        about: "starts a VM again at once",
        read: |arguments| Ok(Command::Reset(arguments.target()?)),
    },
    Form { usage: "images", about: "lists what VMs are made from", read: |_| Ok(Command::Images) },
    Form {
        usage: "stats [VM]",
        about: "counts the memory of a VM, or of the machine",
        read: |arguments| Ok(Command::Stats(arguments.next()?.map(target).transpose()?)),
    },
    Form {
        usage: "net [VM]",
        about: "shows the NICs of a VM, or of all, and what went through them",
        read: |arguments| Ok(Command::Net(arguments.next()?.map(target).transpose()?)),
    },
    Form {
        usage: "console VM",
        about: "shows the console of a VM",
        read: |arguments| Ok(Command::Console(arguments.target()?)),
    },
    Form { usage: "log", about: "shows the log of all VMs", read: |_| Ok(Command::Log) },
    Form {
        usage: "handover [IMAGE]",
        about: "replaces the running hypervisor by that of a bundle, the image #ID of a manager, or by a fresh copy of itself, under the \
                VMs; without confirm the one before comes back",
        read: |arguments| match arguments.next()? {
            None => Ok(Command::Handover(0)),
            Some(word) => match target(word)? {
                Target::Id(id) if id != 0 => Ok(Command::Handover(id)),
                _ => Err(CommandError::Target(word)),
            },
        },
    },
    Form { usage: "confirm", about: "gives the hypervisor up that was replaced last", read: |_| Ok(Command::Confirm) },
    Form { usage: "help", about: "shows these commands", read: |_| Ok(Command::Help) },
];

/// Why a line is no command.
#[derive(Clone, Copy, Debug)]
pub enum CommandError<'a> {
    /// It is longer than [`MAX_LINE`].
    TooLong,
    /// It has no words.
    Empty,
    /// It does not fall into words.
    Words(WordError),
    /// There is no such command.
    Unknown(&'a str),
    /// An argument is missing.
    Missing(&'static Form),
    /// An argument is one too many.
    Extra(&'a str, &'static Form),
    /// The command has no such option.
    Option(&'a str, &'static Form),
    /// An option, or a key of the configuration, is given twice.
    Twice(&'a str),
    /// This does not name a VM.
    Target(&'a str),
    /// This is no name.
    Name(&'a str),
    /// Names of clones that begin like this are too long.
    LongNames(&'a str, u32),
    /// This is no number of clones.
    Count(&'a str),
    /// This is no part of a clone's RAM.
    Reserve(&'a str),
    /// This is no pair, or its key is no key.
    Pair(&'a str),
    /// The value of this key has a byte that values cannot have.
    Value(&'a str),
    /// The configuration is longer than [`MAX_CONFIG`].
    Config,
}

impl fmt::Display for CommandError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the line is longer than {MAX_LINE} bytes"),
            Self::Empty => f.write_str("there is no command: `help` lists them"),
            Self::Words(error) => error.fmt(f),
            Self::Unknown(word) => write!(f, "there is no command {word}: `help` lists them"),
            Self::Missing(form) => write!(f, "{} needs more: {}", form.name(), form.usage),
            Self::Extra(word, form) => write!(f, "{word} is one word too many: {}", form.usage),
            Self::Option(word, form) => write!(f, "{} has no option {word}: {}", form.name(), form.usage),
            Self::Twice(word) => write!(f, "{word} is given twice"),
            Self::Target(word) => write!(f, "{word} is neither a name (1 to 31 of A-Z a-z 0-9 . _ -) nor #ID"),
            Self::Name(word) => write!(f, "{word} is no name: names are 1 to 31 of A-Z a-z 0-9 . _ -"),
            Self::LongNames(word, count) => write!(f, "--name {word}: {word}-{count} is longer than 31 characters"),
            Self::Count(word) => write!(f, "--count {word}: it is 1 to {MAX_CLONES}"),
            Self::Reserve(word) => write!(f, "--reserve {word}: it is none, all, or 0% to {RESERVE_ALL}%"),
            Self::Pair(word) => write!(f, "--config {word}: it is KEY=VALUE, keys are 1 to 64 of A-Z a-z 0-9 . _ -"),
            Self::Value(key) => write!(f, "--config {key}: its value has a line feed or a NUL"),
            Self::Config => write!(f, "the configuration is longer than {MAX_CONFIG} bytes"),
        }
    }
}

impl From<WordError> for CommandError<'_> {
    fn from(error: WordError) -> Self {
        Self::Words(error)
    }
}

/// Reads a line without its line feed. Quotes are removed in it; `config` takes the pairs of `clone`.
///
/// # Errors
///
/// Says what is wrong, and what is expected.
pub fn parse<'a>(line: &'a mut [u8], config: &'a mut [u8; MAX_CONFIG]) -> Result<Command<'a>, CommandError<'a>> {
    if line.len() > MAX_LINE {
        return Err(CommandError::TooLong);
    }
    let mut words = Words::new(line);
    let name = words.take()?.ok_or(CommandError::Empty)?.text;
    let form = FORMS.iter().find(|form| form.name() == name).ok_or(CommandError::Unknown(name))?;
    let mut arguments = Arguments { words, form, config: Pairs { bytes: config, length: 0 } };
    let command = (form.read)(&mut arguments)?;
    match arguments.next()? {
        None => Ok(command),
        Some(word) => Err(CommandError::Extra(word, form)),
    }
}

/// What stands behind a command's name.
struct Arguments<'a> {
    words: Words<'a>,
    form: &'static Form,
    config: Pairs<'a>,
}

impl<'a> Arguments<'a> {
    fn next(&mut self) -> Result<Option<&'a str>, CommandError<'a>> {
        Ok(self.words.take()?.map(|word| word.text))
    }

    fn word(&mut self) -> Result<&'a str, CommandError<'a>> {
        self.next()?.ok_or(CommandError::Missing(self.form))
    }

    fn target(&mut self) -> Result<Target<'a>, CommandError<'a>> {
        target(self.word()?)
    }
}

fn cloning<'a>(arguments: &mut Arguments<'a>) -> Result<Command<'a>, CommandError<'a>> {
    let (mut source, mut count, mut prefix, mut reserve) = (None, None, None, None);
    while let Some(Word { text: word, is_quoted }) = arguments.words.take()? {
        match word {
            // What is quoted is no option: a name may look like one.
            _ if is_quoted || !word.starts_with("--") => {
                once(&mut source, word, target(word)?).map_err(|_| CommandError::Extra(word, arguments.form))?
            }
            "--count" => once(&mut count, word, clones(arguments.word()?)?)?,
            "--name" => once(&mut prefix, word, name(arguments.word()?)?)?,
            "--reserve" => once(&mut reserve, word, percent(arguments.word()?)?)?,
            "--config" => {
                let pair = arguments.word()?;
                arguments.config.push(pair)?;
            }
            _ => return Err(CommandError::Option(word, arguments.form)),
        }
    }
    let source = source.ok_or(CommandError::Missing(arguments.form))?;
    let count = count.unwrap_or(1);
    if let Some(prefix) = prefix
        && count > 1
        && prefix.len() + 1 + (count.ilog10() as usize + 1) >= NAME
    {
        return Err(CommandError::LongNames(prefix, count));
    }
    let config = arguments.config.take();
    Ok(Command::Clone(Cloning { source, count, name: prefix, config, reserve: reserve.unwrap_or(0) }))
}

fn once<'a, T>(place: &mut Option<T>, option: &'a str, value: T) -> Result<(), CommandError<'a>> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(CommandError::Twice(option)),
    }
}

fn target(word: &str) -> Result<Target<'_>, CommandError<'_>> {
    let target = match word.strip_prefix('#') {
        Some(digits) => decimal(digits).map(Target::Id),
        None => name(word).ok().map(Target::Name),
    };
    target.ok_or(CommandError::Target(word))
}

fn name(word: &str) -> Result<&str, CommandError<'_>> {
    if (1..NAME).contains(&word.len()) && is_made_of_name_letters(word) {
        Ok(word)
    } else {
        Err(CommandError::Name(word))
    }
}

fn is_made_of_name_letters(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn clones(word: &str) -> Result<u32, CommandError<'_>> {
    let count = decimal(word).and_then(|count| u32::try_from(count).ok());
    count.filter(|count| (1..=MAX_CLONES).contains(count)).ok_or(CommandError::Count(word))
}

fn percent(word: &str) -> Result<u32, CommandError<'_>> {
    let percent = match word {
        "none" => Some(0),
        "all" => Some(RESERVE_ALL),
        _ => word.strip_suffix('%').and_then(decimal).and_then(|percent| u32::try_from(percent).ok()),
    };
    percent.filter(|&percent| percent <= RESERVE_ALL).ok_or(CommandError::Reserve(word))
}

/// Reads digits and nothing else: `str::parse` takes a plus sign too.
fn decimal(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A configuration as it grows.
struct Pairs<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl<'a> Pairs<'a> {
    fn push<'w>(&mut self, pair: &'w str) -> Result<(), CommandError<'w>> {
        let (key, value) = pair.split_once('=').ok_or(CommandError::Pair(pair))?;
        if !(1..=64).contains(&key.len()) || !is_made_of_name_letters(key) {
            return Err(CommandError::Pair(pair));
        }
        if value.bytes().any(|byte| matches!(byte, b'\n' | 0)) {
            return Err(CommandError::Value(key));
        }
        let (taken, free) = self.bytes.split_at_mut(self.length);
        let mut lines = taken.split(|&byte| byte == b'\n');
        if lines.any(|line| line.strip_prefix(key.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))) {
            return Err(CommandError::Twice(key));
        }
        let place = free.get_mut(..=pair.len()).ok_or(CommandError::Config)?;
        for (place, byte) in place.iter_mut().zip(pair.bytes().chain([b'\n'])) {
            *place = byte;
        }
        self.length += pair.len() + 1;
        Ok(())
    }

    fn take(&mut self) -> &'a str {
        let bytes: &'a mut [u8] = core::mem::take(&mut self.bytes);
        bytes.get(..self.length).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::Quoted;
    use super::*;
    use proptest::prelude::*;

    /// Reads a line and shows what it is, or why it is nothing.
    fn read(line: &str) -> String {
        let (mut line, mut config) = (line.as_bytes().to_vec(), [0; MAX_CONFIG]);
        match parse(&mut line, &mut config) {
            Ok(command) => format!("{command:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn is(line: &str, expected: Command<'_>) {
        assert_eq!(read(line), format!("{expected:?}"), "{line}");
    }

    fn refuses(line: &str, reason: &str) {
        let said = read(line);
        assert!(said.contains(reason), "{line}: {said}");
    }

    #[test]
    fn every_command_is_understood() {
        let web = Target::Name("web");
        is("list", Command::List);
        is("info web", Command::Info(web));
        is("freeze #18446744073709551615", Command::Freeze(Target::Id(u64::MAX)));
        is("unfreeze web", Command::Unfreeze(web));
        is("snapshot web before.update", Command::Snapshot { vm: web, name: "before.update" });
        is("revert web #9", Command::Revert { vm: web, to: Target::Id(9) });
        is("destroy web", Command::Destroy(web));
        is("start web", Command::Start(web));
        is("stop web", Command::Stop(web));
        is("reset web", Command::Reset(web));
        is("images", Command::Images);
        is("stats", Command::Stats(None));
        is("stats web", Command::Stats(Some(web)));
        is("net", Command::Net(None));
        is("net web", Command::Net(Some(web)));
        is("console web", Command::Console(web));
        is("log", Command::Log);
        is("help", Command::Help);
    }

    #[test]
    fn a_clone_is_one_with_nothing_set_aside_unless_more_is_asked_for() {
        let usual = Cloning { source: Target::Name("web"), count: 1, name: None, config: "", reserve: 0 };
        is("clone web", Command::Clone(usual));
        let all = Cloning {
            source: Target::Id(3),
            count: 10,
            name: Some("w"),
            config: "role=worker\nmotto=\"two words\"\nempty=\n",
            reserve: 25,
        };
        is(
            r#"clone --count 10 #3 --config role=worker --name w --config motto="\"two words\"" --reserve 25% --config empty="#,
            Command::Clone(all),
        );
        let odd = Cloning { source: Target::Name("--count"), name: Some("--name"), ..usual };
        is(r#"clone "--count" --name --name"#, Command::Clone(odd));
        is("clone web --reserve all", Command::Clone(Cloning { reserve: 100, ..usual }));
        is("clone web --reserve none", Command::Clone(usual));
    }

    #[test]
    fn mistakes_are_named_with_what_is_expected() {
        refuses("", "`help`");
        refuses("reboot", "there is no command reboot");
        refuses("info", "info needs more: info VM");
        refuses("info web db", "db is one word too many: info VM");
        refuses("info #x", "nor #ID");
        refuses("info #+1", "nor #ID");
        refuses("info a/b", "A-Z a-z 0-9 . _ -");
        refuses("snapshot web #1", "#1 is no name");
        refuses("clone --count 2", "clone needs more: clone VM [--count N]");
        refuses("clone web db", "db is one word too many");
        refuses("clone web --fast", "clone has no option --fast");
        refuses("clone web --count", "clone needs more");
        refuses("clone web --count 0", "1 to 1000");
        refuses("clone web --count 1001", "1 to 1000");
        refuses("clone web --count 4294967297", "1 to 1000");
        refuses("clone web --count 1 --count 1", "--count is given twice");
        refuses("clone web --reserve half", "none, all, or 0% to 100%");
        refuses("clone web --reserve 101%", "0% to 100%");
        refuses("clone web --config role", "KEY=VALUE");
        refuses("clone web --config a/b=1", "keys are 1 to 64 of");
        refuses("clone web --config =1", "keys are 1 to 64 of");
        refuses(r#"clone web --config a="x\ny""#, "line feed");
        refuses("clone web --config \"a=\0\"", "NUL");
        refuses("clone web --config a=1 --config a=2", "a is given twice");
        refuses("clone \"web", "a quote is not closed");
    }

    #[test]
    fn lengths_have_limits() {
        let name = "n".repeat(31);
        is(&format!("info {name}"), Command::Info(Target::Name(&name)));
        refuses(&format!("info {name}n"), "1 to 31");
        // 999 clones are called n…-1 to n…-999.
        let prefix = "n".repeat(27);
        assert!(read(&format!("clone web --count 999 --name {prefix}")).contains("count: 999"));
        refuses(&format!("clone web --count 1000 --name {prefix}"), "-1000 is longer than 31");
        let value = "v".repeat(MAX_CONFIG - 3);
        assert!(read(&format!("clone web --config k={value}")).contains("config: \"k=vv"));
        refuses(&format!("clone web --config k={value}v"), "longer than 1024 bytes");
        let long = format!("list{}", " ".repeat(MAX_LINE - 4));
        is(&long, Command::List);
        refuses(&format!("{long} "), "longer than 2048 bytes");
    }

    #[test]
    fn every_form_says_what_it_is_for() {
        for (index, form) in FORMS.iter().enumerate() {
            assert!(!form.about.is_empty() && FORMS[..index].iter().all(|other| other.name() != form.name()));
        }
    }

    proptest! {
        #[test]
        fn any_line_is_a_command_or_refused_with_a_reason(
            form in 0..FORMS.len(),
            words in proptest::collection::vec("[a-z#=\"%\\\\-]{0,8}|--count|--name|--config|--reserve|[0-9]{1,4}%?|\\PC{0,4}", 0..8),
            noise in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            for line in [format!("{} {}", FORMS[form].name(), words.join(" ")).into_bytes(), noise] {
                let (mut line, mut config) = (line, [0; MAX_CONFIG]);
                if let Err(error) = parse(&mut line, &mut config) {
                    prop_assert!(error.to_string().len() > 10);
                }
            }
        }

        #[test]
        fn a_clone_is_read_back(
            id in any::<u64>(),
            count in 1..=MAX_CLONES,
            name in "[A-Za-z0-9._-]{1,26}",
            pairs in proptest::collection::btree_map("[A-Za-z0-9._-]{1,64}", "[^\\n\\x00]{0,30}", 0..5),
            reserve in 0..=RESERVE_ALL,
        ) {
            let config: String = pairs.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            let words: String = pairs.iter().map(|(key, value)| format!(" --config {key}={}", Quoted(value))).collect();
            let line = format!("clone #{id} --count {count} --name {name}{words} --reserve {reserve}%");
            let (mut line, mut room) = (line.into_bytes(), [0; MAX_CONFIG]);
            let expected = Cloning { source: Target::Id(id), count, name: Some(&name), config: &config, reserve };
            match parse(&mut line, &mut room) {
                Ok(command) => prop_assert_eq!(command, Command::Clone(expected)),
                Err(error) => prop_assert!(config.len() > MAX_CONFIG, "{}", error),
            }
        }
    }
}
