//! Texts that an operator may see, taken from the sources: what is said, and the next step where the code has both together.
//!
//! Knows how this code composes its texts: the macros of tracing, `#[error]`, `Display`, checks, remedies and problems of the
//! configuration. A text that stands anywhere else is found too, as a part that completes others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Block, Expr, ExprCall, ExprMacro, ExprMethodCall, ExprStruct, ExprTuple, File, ImplItemFn,
    Item, ItemConst, ItemEnum, ItemFn, ItemImpl, ItemMod, ItemStruct, Lit, LitStr, Local, Macro, Meta, Pat,
    Stmt, Token,
    parse::Parser,
    punctuated::Punctuated,
    visit::{self, Visit},
};

use crate::{
    phrase::{Phrase, Piece},
    test_names::marks_test,
};

/// A text, as one place in the sources has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) file: PathBuf,
    pub(crate) kind: Kind,
    /// What it is about, where the code says that beside it: a check's name, a key, a SQLSTATE.
    pub(crate) subject: String,
    /// What is said: one text, or several among which the code chooses.
    pub(crate) what: Vec<Phrase>,
    /// The next step.
    pub(crate) steps: Vec<Phrase>,
    /// The variants of an enum that it belongs to, such as `Reason::Permission`.
    pub(crate) variants: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A line of the log.
    Log(Level),
    /// A reason that goes with this state.
    State,
    /// A line of `check`.
    Check(Outcome),
    /// A key of the configuration that is wrong.
    Setting,
    /// A program ends with it.
    Failure,
    /// An error, or its meaning.
    Error,
    /// A next step whose cause has no text of ours.
    Step,
    /// Completes other texts.
    Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Failed,
    Warning,
    Ok,
}

/// What the sources of the product say.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub(crate) texts: Vec<Text>,
    /// Constants of all files; `None` where two differ.
    constants: HashMap<String, Option<Phrase>>,
    /// What a function writes piece by piece, with holes between the pieces.
    pub(crate) written: Vec<Phrase>,
    /// Metrics with their help.
    pub(crate) metrics: BTreeMap<String, String>,
}

impl Texts {
    /// Reads sources, by their paths.
    pub(crate) fn read<'a>(&mut self, sources: impl Iterator<Item = (&'a Path, String)>) {
        let parse = |(path, source): (&'a Path, String)| {
            let file = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, file)
        };
        let files: Vec<(&Path, File)> = sources.map(parse).collect();
        for item in files.iter().flat_map(|(_, file)| &file.items) {
            let Item::Const(constant) = item else { continue };
            let Some(value) = value_of(constant) else { continue };
            let known =
                self.constants.entry(constant.ident.to_string()).or_insert_with(|| Some(value.clone()));
            // Of several constants of one name, only a file that has one tells which is meant.
            if known.as_ref() != Some(&value) {
                *known = None;
            }
        }
        for (path, file) in &files {
            let mut reader = Reader {
                file: path,
                found: self,
                scopes: vec![Scope::default()],
                place: Place::default(),
                of_type: String::new(),
            };
            reader.file(file);
        }
    }

    /// Gives each error the next step that another place of the code has for it.
    pub(crate) fn join(&mut self) {
        let said: BTreeSet<String> = self
            .texts
            .iter()
            .filter(|text| text.kind == Kind::Error)
            .flat_map(|text| text.variants.iter().cloned())
            .collect();
        let mut steps: BTreeMap<String, Vec<Phrase>> = BTreeMap::new();
        self.texts.retain(|text| {
            let joins = text.kind == Kind::Step
                && !text.variants.is_empty()
                && text.variants.iter().all(|variant| said.contains(variant));
            if joins {
                for variant in &text.variants {
                    steps.entry(variant.clone()).or_default().extend(text.steps.iter().cloned());
                }
            }
            !joins
        });
        for text in self.texts.iter_mut().filter(|text| text.kind == Kind::Error) {
            for step in text.variants.iter().filter_map(|variant| steps.get(variant)).flatten() {
                if !text.steps.contains(step) {
                    text.steps.push(step.clone());
                }
            }
        }
    }
}

/// Constants and variables of one block.
#[derive(Default)]
struct Scope {
    constants: HashMap<String, Phrase>,
    /// With the kind that they get if nothing says what becomes of them.
    locals: Vec<Variable>,
}

struct Variable {
    name: String,
    phrases: Vec<Phrase>,
    is_used: bool,
    place: Place,
}

/// What is being read.
#[derive(Clone, Debug, Default)]
struct Place {
    role: Role,
    variants: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Part,
    /// What an error is about.
    What,
    Step,
}

struct Reader<'a> {
    file: &'a Path,
    found: &'a mut Texts,
    scopes: Vec<Scope>,
    place: Place,
    /// Type whose `impl` it is.
    of_type: String,
}

impl Reader<'_> {
    fn file(&mut self, file: &File) {
        for item in &file.items {
            if let Item::Const(constant) = item {
                self.constant(constant);
            }
        }
        self.visit_file(file);
    }

    fn constant(&mut self, constant: &ItemConst) {
        if let Some(value) = value_of(constant)
            && let Some(scope) = self.scopes.last_mut()
        {
            scope.constants.insert(constant.ident.to_string(), value);
        }
    }

    fn constant_named(&self, name: &str) -> Option<Phrase> {
        let near = self.scopes.iter().rev().find_map(|scope| scope.constants.get(name).cloned());
        near.or_else(|| self.found.constants.get(name).cloned().flatten())
    }

    fn add(&mut self, kind: Kind, subject: impl Into<String>, what: Vec<Phrase>, steps: Vec<Phrase>) {
        let (file, variants) = (self.file.to_owned(), self.place.variants.clone());
        self.found.texts.push(Text { file, kind, subject: subject.into(), what, steps, variants });
    }

    /// A text that no call says more about.
    fn stray(&mut self, phrase: Phrase) {
        phrase.lines().into_iter().for_each(|line| self.stray_line(line));
    }

    fn stray_line(&mut self, phrase: Phrase) {
        let says_something = match self.place.role {
            Role::Part => phrase.is_prose(),
            Role::What | Role::Step => {
                let shown = phrase.shown();
                shown.contains(' ')
                    && shown.chars().any(char::is_lowercase)
                    && !shown.trim_end().contains('\n')
            }
        };
        if !says_something {
            return;
        }
        match self.place.role {
            Role::Part => self.add(Kind::Part, "", vec![phrase], Vec::new()),
            Role::What => self.add(Kind::Error, "", vec![phrase], Vec::new()),
            Role::Step => {
                let subject = subject_of(&self.place.variants);
                self.add(Kind::Step, subject, Vec::new(), vec![phrase]);
            }
        }
    }

    fn within<T>(&mut self, place: Place, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.place, place);
        let result = read(self);
        self.place = before;
        result
    }

    /// The texts among which an expression chooses.
    fn phrases(&mut self, expression: &Expr) -> Vec<Phrase> {
        let mut chosen = Vec::new();
        self.choose(expression, &mut chosen);
        chosen
    }

    fn choose(&mut self, expression: &Expr, chosen: &mut Vec<Phrase>) {
        match expression {
            Expr::Lit(literal) => {
                if let Lit::Str(text) = &literal.lit {
                    chosen.push(Phrase::plain(&text.value()));
                }
            }
            Expr::Macro(ExprMacro { mac, .. }) if is_format(mac) => chosen.extend(self.format(mac)),
            Expr::Path(path) => {
                let name =
                    path.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
                if let Some(constant) = self.constant_named(&name) {
                    chosen.push(constant);
                } else if let Some(variable) = self
                    .scopes
                    .iter_mut()
                    .rev()
                    .flat_map(|scope| scope.locals.iter_mut().rev())
                    .find(|local| local.name == name)
                {
                    variable.is_used = true;
                    chosen.extend(variable.phrases.iter().cloned());
                } else {
                    chosen.push(Phrase::of_format("{}", &[hole(expression)]));
                }
            }
            Expr::If(choice) => {
                self.tail(&choice.then_branch, chosen);
                if let Some((_, otherwise)) = &choice.else_branch {
                    self.choose(otherwise, chosen);
                }
            }
            Expr::Match(choice) => choice.arms.iter().for_each(|arm| self.choose(&arm.body, chosen)),
            Expr::Block(block) => self.tail(&block.block, chosen),
            Expr::Reference(reference) => self.choose(&reference.expr, chosen),
            Expr::Paren(inner) => self.choose(&inner.expr, chosen),
            Expr::MethodCall(call)
                if ["to_owned", "into", "to_string", "clone"].iter().any(|name| call.method == name) =>
            {
                self.choose(&call.receiver, chosen);
            }
            Expr::Call(call) if is_named(&call.func, "Some") || is_named(&call.func, "Ok") => {
                call.args.iter().for_each(|argument| self.choose(argument, chosen));
            }
            Expr::Binary(sum) => {
                // left + right: every combination.
                let (left, right) = (self.phrases(&sum.left), self.phrases(&sum.right));
                for left in &left {
                    for right in &right {
                        chosen.push(Phrase([&left.0[..], &right.0[..]].concat()));
                    }
                }
            }
            other => {
                chosen.push(Phrase::of_format("{}", &[hole(other)]));
                self.visit_expr(other);
            }
        }
    }

    fn tail(&mut self, block: &Block, chosen: &mut Vec<Phrase>) {
        match block.stmts.split_last() {
            Some((Stmt::Expr(last, None), before)) => {
                before.iter().for_each(|statement| self.visit_stmt(statement));
                self.choose(last, chosen);
            }
            Some((Stmt::Macro(last), before)) if last.semi_token.is_none() && is_format(&last.mac) => {
                before.iter().for_each(|statement| self.visit_stmt(statement));
                chosen.extend(self.format(&last.mac));
            }
            _ => self.visit_block(block),
        }
    }

    /// The text of `format!` and its like.
    fn format(&mut self, mac: &Macro) -> Option<Phrase> {
        let arguments =
            Punctuated::<Argument, Token![,]>::parse_terminated.parse2(mac.tokens.clone()).ok()?;
        let mut arguments = arguments.into_iter().skip(usize::from(writes(mac)));
        let Some(Argument { value: Expr::Lit(literal), .. }) = arguments.next() else { return None };
        let Lit::Str(text) = literal.lit else { return None };
        let rest: Vec<Argument> = arguments.collect();
        Some(self.formatted(&text.value(), &rest))
    }

    fn formatted(&mut self, text: &str, arguments: &[Argument]) -> Phrase {
        let unnamed = arguments.iter().filter(|argument| argument.name.is_none());
        let names: Vec<String> = unnamed.map(|argument| hole(&argument.value)).collect();
        for argument in arguments {
            self.visit_expr(&argument.value);
        }
        let phrase = Phrase::of_format(text, &names);
        phrase.filled(|name| if is_constant(name) { self.constant_named(name) } else { None })
    }

    fn log(&mut self, level: Level, tokens: &TokenStream) {
        let mut chunks = commas(tokens).into_iter();
        let text = chunks.by_ref().find_map(|chunk| syn::parse2::<LitStr>(chunk).ok());
        let Some(text) = text else { return };
        let arguments: Vec<Argument> = chunks.filter_map(|chunk| syn::parse2(chunk).ok()).collect();
        let phrase = self.formatted(&text.value(), &arguments);
        self.add(Kind::Log(level), "", vec![phrase], Vec::new());
    }

    /// A macro of any name.
    fn macro_named(&mut self, name: &str, mac: Option<&Macro>, tokens: &TokenStream) {
        match name {
            "error" => self.log(Level::Error, tokens),
            "warn" => self.log(Level::Warn, tokens),
            "info" => self.log(Level::Info, tokens),
            "debug" | "trace" => self.log(Level::Debug, tokens),
            "assert" | "assert_eq" | "assert_ne" | "debug_assert" | "debug_assert_eq" | "panic"
            | "unreachable" | "matches" | "env" | "concat" => {}
            _ => {
                if let Some(phrase) = mac.filter(|mac| is_format(mac)).and_then(|mac| self.format(mac)) {
                    self.stray(phrase);
                    return;
                }
                match Punctuated::<Expr, Token![,]>::parse_terminated.parse2(tokens.clone()) {
                    Ok(list) => list.iter().for_each(|expression| self.visit_expr(expression)),
                    Err(_) => self.tokens(tokens),
                }
            }
        }
    }

    /// What no grammar of ours reads, such as the arms of `select!`: its macros and literals.
    fn tokens(&mut self, tokens: &TokenStream) {
        let mut before: [Option<String>; 2] = [None, None];
        for token in tokens.clone() {
            match &token {
                TokenTree::Group(group) => {
                    let name = match &before {
                        [Some(name), Some(mark)] if mark == "!" => Some(name.clone()),
                        _ => None,
                    };
                    match name {
                        Some(name) => self.macro_named(&name, None, &group.stream()),
                        None => self.tokens(&group.stream()),
                    }
                }
                TokenTree::Literal(literal) => {
                    if let Ok(text) = syn::parse_str::<LitStr>(&literal.to_string()) {
                        self.stray(Phrase::of_format(&text.value(), &[]));
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
            before = [before[1].take(), Some(token.to_string())];
        }
    }

    /// A pair of what is wrong and the next step.
    fn pair(&mut self, kind: Kind, subject: String, what: &Expr, steps: &Expr) {
        let (what, steps) = (self.phrases(what), self.phrases(steps));
        self.add(kind, subject, what, steps);
    }

    fn subject(&mut self, expression: &Expr) -> String {
        let phrases = self.phrases(expression);
        phrases.iter().map(Phrase::shown).collect::<Vec<_>>().join(", ")
    }

    fn variants(&self, pattern: &Pat) -> Vec<String> {
        let mut variants = Variants { of_type: &self.of_type, found: Vec::new() };
        variants.visit_pat(pattern);
        variants.found
    }
}

/// Names in a pattern: `Self::Lost { .. }`, `sqlstate::DISK_FULL`, `"28P01"`.
struct Variants<'a> {
    of_type: &'a str,
    found: Vec<String>,
}

impl<'ast> Visit<'ast> for Variants<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let [.., of_type, variant] = &*names {
            let of_type = if of_type == "Self" { self.of_type } else { of_type };
            let variant = format!("{of_type}::{variant}");
            // An inner variant says more than the outer one.
            self.found.retain(|outer| outer.split("::").last() != Some(of_type));
            self.found.push(variant);
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast LitStr) {
        self.found.push(format!("\"{}\"", literal.value()));
    }

    fn visit_pat_guard(&mut self, guarded: &'ast syn::PatGuard) {
        self.visit_pat(&guarded.pat);
    }
}

/// What a step is for, from the names of the variants that lead to it.
fn subject_of(variants: &[String]) -> String {
    let shown = variants.iter().map(|variant| {
        if let Some(code) = variant.strip_prefix('"').and_then(|code| code.strip_suffix('"')) {
            let is_sqlstate =
                code.len() == 5 && code.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
            return if is_sqlstate { format!("SQLSTATE {code}") } else { code.to_owned() };
        }
        let name = variant.split("::").last().unwrap_or_default();
        if is_constant(name) {
            return name.to_lowercase().replace('_', " ");
        }
        let mut words = String::new();
        for c in name.chars() {
            if c.is_uppercase() && !words.is_empty() {
                words.push(' ');
            }
            words.extend(c.to_lowercase());
        }
        words
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// An argument of a format macro: `value` or `name = value`.
struct Argument {
    name: Option<String>,
    value: Expr,
}

impl syn::parse::Parse for Argument {
    fn parse(input: syn::parse::ParseStream<'_>) -> syn::Result<Self> {
        let name = if input.peek(syn::Ident) && input.peek2(Token![=]) && !input.peek2(Token![==]) {
            let name: syn::Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            Some(name.to_string())
        } else {
            None
        };
        Ok(Argument { name, value: input.parse()? })
    }
}

fn commas(tokens: &TokenStream) -> Vec<TokenStream> {
    let mut chunks = vec![TokenStream::new()];
    for token in tokens.clone() {
        match &token {
            TokenTree::Punct(mark) if mark.as_char() == ',' => chunks.push(TokenStream::new()),
            _ => {
                if let Some(chunk) = chunks.last_mut() {
                    chunk.extend([token]);
                }
            }
        }
    }
    chunks
}

fn name_of(mac: &Macro) -> String {
    mac.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default()
}

fn writes(mac: &Macro) -> bool {
    matches!(&*name_of(mac), "write" | "writeln")
}

fn is_format(mac: &Macro) -> bool {
    writes(mac)
        || matches!(&*name_of(mac), "format" | "format_args" | "print" | "println" | "eprint" | "eprintln")
}

fn is_constant(name: &str) -> bool {
    name.len() > 1 && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

fn is_named(function: &Expr, name: &str) -> bool {
    matches!(function, Expr::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

/// What to call what fills a hole: the last name of the expression.
fn hole(expression: &Expr) -> String {
    match expression {
        Expr::Path(path) => match path.path.segments.last() {
            Some(last) if last.ident != "self" => last.ident.to_string(),
            _ => String::new(),
        },
        Expr::Field(field) => match &field.member {
            syn::Member::Named(name) => name.to_string(),
            syn::Member::Unnamed(_) => String::new(),
        },
        Expr::Reference(reference) => hole(&reference.expr),
        Expr::MethodCall(call) if call.args.is_empty() => hole(&call.receiver),
        Expr::Call(call) if call.args.len() == 1 => call.args.first().map(hole).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Whether this is compiled for tests only.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let is_cfg_test = match &attribute.meta {
            Meta::List(list) => path.is_ident("cfg") && list.tokens.to_string().contains("test"),
            _ => false,
        };
        is_cfg_test || marks_test(attribute)
    })
}

/// Whether a function of this name gives next steps, or says what happened.
fn role_of(function: &str, file: &Path) -> Role {
    let gives = |words: &[&str]| words.iter().any(|word| function.contains(word));
    let is_of_cures =
        ["cures.rs", "remedy.rs", "statement_remedy.rs"].iter().any(|name| file.ends_with(name));
    if gives(&["cure", "remedy", "hint", "prevention", "way_out", "steps", "next_step"]) {
        Role::Step
    } else if gives(&["what", "means", "reason", "explain"]) || function == "fmt" {
        Role::What
    } else if is_of_cures {
        Role::Step
    } else {
        Role::Part
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_const(&mut self, constant: &'ast ItemConst) {
        self.constant(constant);
        visit::visit_item_const(self, constant);
    }

    fn visit_item_impl(&mut self, implementation: &'ast ItemImpl) {
        if is_test(&implementation.attrs) {
            return;
        }
        let name = match &*implementation.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        let before = std::mem::replace(&mut self.of_type, name.unwrap_or_default());
        visit::visit_item_impl(self, implementation);
        self.of_type = before;
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if is_test(&function.attrs) {
            return;
        }
        let role = role_of(&function.sig.ident.to_string(), self.file);
        self.within(Place { role, variants: Vec::new() }, |reader| visit::visit_item_fn(reader, function));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if is_test(&function.attrs) {
            return;
        }
        let role = role_of(&function.sig.ident.to_string(), self.file);
        let before = self.found.texts.len();
        self.within(Place { role, variants: Vec::new() }, |reader| {
            visit::visit_impl_item_fn(reader, function)
        });
        if function.sig.ident == "fmt" {
            let pieces = self.found.texts[before..].iter().flat_map(|text| text.what.iter().cloned());
            self.found.written.extend(written(&pieces.collect::<Vec<_>>()));
        }
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        for variant in &item.variants {
            let name = format!("{}::{}", item.ident, variant.ident);
            self.within(Place { role: Role::What, variants: vec![name] }, |reader| {
                reader.errors(&variant.attrs)
            });
        }
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.within(Place { role: Role::What, variants: Vec::new() }, |reader| reader.errors(&item.attrs));
    }

    fn visit_block(&mut self, block: &'ast Block) {
        self.scopes.push(Scope::default());
        for statement in &block.stmts {
            if let Stmt::Item(Item::Const(constant)) = statement {
                self.constant(constant);
            }
        }
        visit::visit_block(self, block);
        let scope = self.scopes.pop().unwrap_or_default();
        for variable in scope.locals.into_iter().filter(|variable| !variable.is_used) {
            self.within(variable.place, |reader| {
                variable.phrases.into_iter().for_each(|phrase| reader.stray(phrase))
            });
        }
    }

    /// A variable that holds a text is said where it is used.
    fn visit_local(&mut self, local: &'ast Local) {
        let pattern = if let Pat::Type(typed) = &local.pat { &*typed.pat } else { &local.pat };
        let (Pat::Ident(name), Some(init)) = (pattern, &local.init) else {
            return visit::visit_local(self, local);
        };
        let may_hold_text = matches!(&*init.expr, Expr::If(_) | Expr::Match(_)) || holds_text(&init.expr);
        if !may_hold_text || init.diverge.is_some() {
            return visit::visit_local(self, local);
        }
        let name = name.ident.to_string();
        let is_step = ["cure", "steps", "better"].contains(&&*name);
        let role = if is_step { Role::Step } else { self.place.role };
        let place = Place { role, variants: self.place.variants.clone() };
        let phrases = self.phrases(&init.expr);
        if let Some(scope) = self.scopes.last_mut() {
            scope.locals.push(Variable { name, phrases, is_used: false, place });
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let mut variants = self.variants(&arm.pat);
        if variants.is_empty() {
            variants.clone_from(&self.place.variants);
        }
        let place = Place { role: self.place.role, variants };
        self.within(place, |reader| reader.visit_expr(&arm.body));
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        let Expr::Path(function) = &*call.func else { return visit::visit_expr_call(self, call) };
        let names: Vec<String> =
            function.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let arguments: Vec<&Expr> = call.args.iter().collect();
        match (&*names, &*arguments) {
            ([.., "Check", "passed"], [name, detail]) => {
                let (subject, detail) = (self.subject(name), self.phrases(detail));
                self.add(Kind::Check(Outcome::Ok), subject, detail, Vec::new());
            }
            ([.., "Check", "warning"], [name, what, steps]) => {
                let subject = self.subject(name);
                self.pair(Kind::Check(Outcome::Warning), subject, what, steps);
            }
            ([.., "Check", "failed" | "failed_for_now"] | ["check"], [name, what, steps]) => {
                let subject = self.subject(name);
                self.pair(Kind::Check(Outcome::Failed), subject, what, steps);
            }
            (["problem"], [key, what, steps]) => {
                let subject = self.subject(key);
                self.pair(Kind::Setting, subject, what, steps);
            }
            ([.., "Problem", "new"], [what, steps]) => self.pair(Kind::Error, String::new(), what, steps),
            ([.., "Remedy", "by_person" | "by_time"], [steps]) => {
                let variants = self.place.variants.clone();
                self.within(Place { role: Role::Step, variants }, |reader| reader.steps(steps));
            }
            ([.., "Failure", "Runtime" | "CommandLine" | "Configuration"], [text]) => {
                let what = self.phrases(text);
                self.add(Kind::Failure, "", what, Vec::new());
            }
            // RabbitMQ's refusals: code, words, reason, meaning, cure.
            (["row"], [_, _, reason, means, cure]) => {
                let variants = vec![path_of(reason)];
                let subject = subject_of(&variants);
                let (what, steps) = (self.phrases(means), self.phrases(cure));
                let steps = steps.iter().map(|step| Phrase::of_format(&step.shown(), &[])).collect();
                self.within(Place { role: Role::What, variants: Vec::new() }, |reader| {
                    reader.add(Kind::Error, subject, what, steps);
                });
            }
            (_, [Expr::Lit(name), Expr::Lit(help), ..]) if is_metric(name, help) => {
                if let (Lit::Str(name), Lit::Str(help)) = (&name.lit, &help.lit) {
                    self.found.metrics.insert(name.value(), help.value());
                }
            }
            _ => visit::visit_expr_call(self, call),
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let arguments: Vec<&Expr> = call.args.iter().collect();
        match (&*call.method.to_string(), &*arguments) {
            ("problem", [key, what, steps]) => {
                let subject = self.subject(key);
                self.pair(Kind::Setting, subject, what, steps);
            }
            ("complain", [what, steps]) => self.pair(Kind::Setting, String::new(), what, steps),
            ("state", [Expr::Path(state), reason]) if state.path.segments.len() == 2 => {
                let subject = state.path.segments.last().map(|last| last.ident.to_string().to_lowercase());
                let what: Vec<Phrase> =
                    self.phrases(reason).into_iter().filter(|phrase| phrase.shown().contains(' ')).collect();
                if !what.is_empty() {
                    self.add(Kind::State, subject.unwrap_or_default(), what, Vec::new());
                }
            }
            ("expect", _) => self.visit_expr(&call.receiver),
            _ => visit::visit_expr_method_call(self, call),
        }
    }

    /// A pair of what is wrong and the next step.
    fn visit_expr_tuple(&mut self, tuple: &'ast ExprTuple) {
        let [what, steps] = &*tuple.elems.iter().collect::<Vec<_>>() else {
            return visit::visit_expr_tuple(self, tuple);
        };
        if !holds_text(what) || !holds_text(steps) {
            return visit::visit_expr_tuple(self, tuple);
        }
        let is_of_settings = SETTINGS.iter().any(|folder| self.file.starts_with(folder));
        let kind = if is_of_settings { Kind::Setting } else { Kind::Error };
        self.pair(kind, String::new(), what, steps);
    }

    fn visit_expr_struct(&mut self, made: &'ast ExprStruct) {
        let field = |name: &str| {
            let named = |field: &&syn::FieldValue| matches!(&field.member, syn::Member::Named(member) if member == name);
            made.fields.iter().find(named).map(|field| &field.expr)
        };
        match (field("what"), field("cure")) {
            (Some(what), Some(steps)) => self.pair(Kind::Error, String::new(), what, steps),
            _ => visit::visit_expr_struct(self, made),
        }
    }

    fn visit_macro(&mut self, mac: &'ast Macro) {
        self.macro_named(&name_of(mac), Some(mac), &mac.tokens);
    }

    fn visit_lit_str(&mut self, text: &'ast LitStr) {
        self.stray(Phrase::plain(&text.value()));
    }

    fn visit_pat(&mut self, _: &'ast Pat) {}
}

impl Reader<'_> {
    /// The text of `#[error("...")]`.
    fn errors(&mut self, attributes: &[Attribute]) {
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("error")) {
            let Meta::List(list) = &attribute.meta else { continue };
            let mut chunks = commas(&list.tokens).into_iter();
            let Some(text) = chunks.next().and_then(|chunk| syn::parse2::<LitStr>(chunk).ok()) else {
                continue;
            };
            // `.0` and the like are no expressions.
            let names = vec![String::new(); 9];
            let phrase = Phrase::of_format(&text.value(), &names);
            if phrase.letters() > 3 {
                self.add(Kind::Error, "", vec![phrase], Vec::new());
            }
        }
    }

    /// Next steps, of which each arm of a `match` has its own cause.
    fn steps(&mut self, expression: &Expr) {
        match expression {
            Expr::Match(_) | Expr::If(_) | Expr::Block(_) => self.visit_expr(expression),
            _ => {
                for phrase in self.phrases(expression) {
                    self.stray(phrase);
                }
            }
        }
    }
}

/// Folders whose pairs of texts are about keys.
const SETTINGS: [&str; 3] = ["src/settings", "crates/configuration", "crates/broker-access"];

/// Whether an expression is a text, whatever fills its holes.
fn holds_text(expression: &Expr) -> bool {
    match expression {
        Expr::Lit(literal) => matches!(&literal.lit, Lit::Str(text) if text.value().contains(' ')),
        Expr::Macro(made) => is_format(&made.mac),
        Expr::MethodCall(call) => call.args.is_empty() && holds_text(&call.receiver),
        _ => false,
    }
}

/// What a function may write that writes these pieces, each or not.
fn written(pieces: &[Phrase]) -> Vec<Phrase> {
    if !(2..=6).contains(&pieces.len()) {
        return Vec::new();
    }
    let chosen = (1_usize..1 << pieces.len()).filter(|chosen| chosen.count_ones() > 1);
    let joined = chosen.map(|chosen| {
        let mut joined = Vec::new();
        for (_, piece) in pieces.iter().enumerate().filter(|(at, _)| chosen & (1 << at) != 0) {
            joined.extend(piece.0.iter().cloned());
            joined.push(Piece::Hole(String::new()));
        }
        Phrase(joined)
    });
    joined.collect()
}

/// Text of a constant that is a text or a number.
fn value_of(constant: &ItemConst) -> Option<Phrase> {
    let Expr::Lit(literal) = &*constant.expr else { return None };
    match &literal.lit {
        Lit::Str(text) => Some(Phrase::plain(&text.value())),
        Lit::Int(number) => Some(Phrase::plain(number.base10_digits())),
        _ => None,
    }
}

fn path_of(expression: &Expr) -> String {
    match expression {
        Expr::Path(path) => {
            path.path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>().join("::")
        }
        _ => String::new(),
    }
}

fn is_metric(name: &syn::ExprLit, help: &syn::ExprLit) -> bool {
    let (Lit::Str(name), Lit::Str(help)) = (&name.lit, &help.lit) else { return false };
    let name = name.value();
    ["outboxd_", "process_", "http_", "inbox_"].iter().any(|program| name.starts_with(program))
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && help.value().contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
        /// A comment says nothing to an operator.
        #[derive(Debug, thiserror::Error)]
        enum Fault {
            #[error("the link to {at} is cut")]
            Cut { at: String },
            #[error(transparent)]
            Other(Inner),
        }
        const LONG: &str = "for a long time";
        impl Fault {
            fn cure(&self) -> &'static str {
                match self {
                    Fault::Cut { .. } => "mend the cable",
                    Fault::Other(_) => "",
                }
            }
        }
        fn relay(server: &Server, section: &mut Section) {
            const NAME: &str = "wal_level";
            tracing::warn!(source = %server.name, lost, "no answer {LONG} from {}", server.host);
            let what = format!("wal_level is {}", server.wal_level);
            checks.push(Check::failed(NAME, what, "set it to logical"));
            section.problem("listen", "is no address", "write host:port");
            report.state(SourceState::Halted, "somebody has to look");
            let sql = "SELECT the rows that are there";
            other("a part of it".to_owned());
            tokio::select! { biased; () = end => tracing::info!("ending, for it was asked to"), }
            counter("outboxd_rows_total", "Rows that were seen");
            assert!(true, "this cannot be");
        }
        #[cfg(test)]
        mod tests { fn a() { tracing::warn!("not of the product"); } }
    "#;

    #[test]
    fn every_kind_of_text_is_found_with_its_next_step() {
        let mut found = Texts::default();
        found.read([(Path::new("src/relay/mod.rs"), SOURCE.to_owned())].into_iter());
        found.join();
        let shown: Vec<String> = found
            .texts
            .iter()
            .map(|text| {
                let all =
                    |phrases: &[Phrase]| phrases.iter().map(Phrase::shown).collect::<Vec<_>>().join(" / ");
                format!("{:?} [{}] {} -> {}", text.kind, text.subject, all(&text.what), all(&text.steps))
            })
            .collect();
        let expected = [
            "Error [] the link to <at> is cut -> mend the cable",
            "Part [] for a long time -> ",
            "Log(Warn) [] no answer for a long time from <host> -> ",
            "Check(Failed) [wal_level] wal_level is <wal_level> -> set it to logical",
            "Setting [listen] is no address -> write host:port",
            "State [halted] somebody has to look -> ",
            "Part [] a part of it -> ",
            "Log(Info) [] ending, for it was asked to -> ",
        ];
        assert_eq!(shown, expected);
        assert_eq!(found.metrics["outboxd_rows_total"], "Rows that were seen");
    }
}
