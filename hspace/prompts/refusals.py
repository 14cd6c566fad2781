"""Wording that refuses sexual or violent content: "no nudity", "non-violent", "keep guns out of the picture".

Refusals have a scope: the words between the negation and what it refuses may not leave its clause ("no hat, holding a
sword" refuses a hat).
"""

from __future__ import annotations

CHILD_SAFE = (
    r"\b(?:family|kids?|child(?:ren)?|toddler)[-' ]?s?[- ]?(?:friendly|safe|appropriate|suitable|oriented)\b"
    r"|\b(?:suitable|appropriate|ok|okay|fine|fit|good|safe|cleared|acceptable|right|made|meant"
    r"|rated) for (?:\w+ ){0,2}?"
    r"(?:kids|child(?:ren)?|all ages|families|family viewing|toddlers|minors|school|classrooms?|general audiences?"
    r"|all audiences"
    r"|everyone|young (?:viewers|readers|audiences?|children|eyes)|little ones|under-?\w+s|a (?:young|family"
    r"|child)\w*)\b"
    r"|(?<![\w-])(?:pg|g-rated|pg-rated|rated (?:g|pg|u))(?![\w-])"
)
WORDS = {
    "sexual": r"sex|sexy|sexual(?:ly|ity|i[sz]ed|i[sz]ation)?|nud(?:e(?! (?:lip|tone|colou?r|shade|heel|make"
    r"|pump)\w*)|es|ity|ist)|naked(?! (?:flames?|lights?|eye|bulbs?|trees?|branches))(?:ness)?|nsfw|porn\w*"
    r"|erotic(?:a|ism|ally)?|lewd(?:ness)?"
    r"|explicit(?! (?:violence|gore|weapons?|blood|injur))(?:ly|ness)?|suggestive(?:ly|ness)?|provocative(?:ly)?"
    r"|revealing (?:cloth\w+|outfits?|attire|dress(?:es)?|garments?|costumes?|poses?|necklines?)|(?<=too )revealing"
    r"|(?<=nothing )revealing|cleavages?|nipples?|breasts?|genital(?:s|ia)"
    r"|private parts|bare (?:chests?|breasts?|skin|bodies|bottoms?|flesh|torsos?|shoulders?|legs?|midriffs?)"
    r"|exposed (?:skin|breasts?|bodies|flesh)|skin on show|lingerie|underwear|topless|undress(?:ed|ing)?"
    r"|unclothed|fan[- ]?service|steamy|fetish\w*|kinky?|sensual(?:ity|ly)?|seductive(?:ly)?|risqu[eé]"
    r"|adult (?:content|themes?|material)|indecen\w+"
    r"|obscen\w+|raunchy|titillat\w+|sultry|smut(?:ty)?|r-rated|x-rated|18\+|bikinis?|thongs?|striptease|hentai"
    r"|ecchi|lust(?:ful)?|intimate (?:acts?|parts|scenes?)"
    r"|see-through|naughty|perv(?:y|erted)|racy|saucy|vulgar|lascivious|salacious|prurient|voyeuristic|carnal"
    r"|arousing(?! suspicion)|intercourse|crotch|buttocks?|panties|upskirt",
    "violence": r"violen(?:t|ce|tly)|gore|gory|blood(?:y|shed|ied|iness|stains?|thirsty)?|bleeding|weapon(?:s|ry"
    r"|ised|ized)?|guns?|gunfire|firearms?|kni(?:fe|ves)"
    r"|swords?|blades?(?! of grass)|daggers?|pistols?|rifles?|revolvers?|spears?|axes?|arrows?|bullets?|bombs?"
    r"|grenades?|explosives?|combat|kill(?:s|ed|ing|ings)?|murders?|corpses?"
    r"|(?:dead|mangled|mutilated) (?:bod(?:y|ies)|people|men|soldiers|animals)|death|dying|injur(?:y|ies|ed)"
    r"|wound(?:s|ed)?|brutal(?:ity)?|fight(?:s|ing)?|punch(?:es|ing)?|battles?|bruises?"
    r"|riots?|tortur\w+|cruelty|carnage|massacres?|dismember\w*|decapitat\w*|severed|graphic (?:content|violence"
    r"|detail|details|imagery|injur\w+)|bloodthirst"
    r"|harm(?:ed|ing)?|hurt(?:ing)?|armed|armaments?|arms drawn|aggressi(?:on|ve)|attacks?|attacking|stabb\w+"
    r"|shooting(?! stars?)|shots fired|slaughter|mutilat\w+|guts(?!,? no glory)|entrails|viscera"
    r"|ammunition|ammo|warfare|fatalities|casualties|suffering|beheading|fisticuffs|brawl(?:s|ing)?|explosions?|fists|cannons?|artillery|muskets?|crossbows?|machetes?|shotguns?|missiles?|nooses?|swordplay"
    r"|war(?!-? ?(?:paint|medals?|museum|memorial|room|torn|horse))",
}
_AFFIRMED = {
    "sexual": r"\bsfw\b|\b(?:safe|suitable|ok|okay|appropriate) (?:for|at) (?:work|the office)\b|\bwork[- ]safe\b"
    r"|\b(?:non|un|a)-?sexual(?:i[sz]ed|ly)?\b"
    r"|\bnon-?(?:erotic|suggestive|explicit|nude)\b|\bunsexy\b|\bdesexuali[sz]ed\b"
    r"|\b(?:fully|properly|decently|modestly|completely|appropriately|entirely|respectably|warmly) (?:clothed"
    r"|dressed|clad|covered|robed)\b"
    r"|\b(?:remain|remains|stay|stays|kept|keep|keeps|always|keep (?:him|her|them|everyone"
    r"|everybody)) (?:\w+ )?(?:clothed|dressed|covered up|decent)\b"
    r"|\b(?:keep|keeps|kept|leave|leaves|with) (?:(?:his|her|their|all|the|everyone's|every) )*(?:shirts?|clothes"
    r"|clothing|robes?|tops?) on\b"
    r"|\bmodest(?:y|ly)? (?:clothing|clothes|attire|dress|dressed|outfits?|swimwear|swimsuits?|wear|garments?"
    r"|neckline|poses?)\b"
    r"|\b(?:strictly|keep (?:it|him|her|them|things)|kept|always|utterly|perfectly) (?:\w+ )?(?:modest|decent"
    r"|chaste|tasteful|clean|wholesome|innocent)\b|\bchaste(?:ly)?\b",
    "violence": r"\bunarmed\b(?!\?)|\bweapon-?less\b|\bun-?bloodied\b|\bbloodless(?:ly)?\b|\bnon-?(?:violent"
    r"|violence|lethal|gory|graphic)\b|\bunviolent\b"
    r"|\b(?:keep|kept|keeps|make|stay|stays|strictly|entirely|perfectly) (?:it |things |them |the \w+ )?(?:peaceful"
    r"|gentle and peaceful)\b|\bpeaceful, not\b",
}

_STOP = (
    r"(?:with|while|she|he|they|it|its|who|whom|that|which|as|but|until|on|onto|at|by|into|through|over|under|beside|behind|near"
    r"|after|before|except|save|because|amid|during|beyond|between|among|around|like|just|only|stops?|ends?|escapes?|holds?|wants"
    r"|knows|fears|has|have|had|is|are|was|were|can|could|will|would|than|toward|towards|against|about|for"
    r"|(?!(?:being|showing|depicting|involving|featuring|containing|getting|having|becoming|including|using|seeing|anything|nothing|something)\b)\w{2,}ing)"
)
_DETERMINER = r"(?:any|the|a|an|his|her|their|its|my|your|our|some|every|all|this|that|these|those|no)"
_WORD = rf"(?:(?!(?:{_STOP}|{_DETERMINER})\b)[\w'/&-]+ )"
# A determiner begins a new noun phrase: in "without warning the bomb", the bomb is not refused.
_GAP = (
    rf"(?:(?:being|showing|depicting|featuring|including|seeing|using|having) )?(?:{_DETERMINER} )?{_WORD}{{0,3}}?"
    rf"(?:of (?:{_DETERMINER} )?{_WORD}{{0,2}}?)?"
)
_LIST = rf"(?:(?:(?!{_STOP}\b)[\w'-]+, ){{0,3}}(?!{_STOP}\b)[\w'-]+(?:,? and |,? or |,? nor | & |/))?"
_NOT_REFUSED = (
    r"(?!(?:shortage|lack|end|limit|dearth|doubt|wonder|longer|matter|stranger|mercy|more than|less than|time for"
    r"|such thing"
    r"|scarcity|absence|reason|only|just|merely|simply|without|fear|way|question)\b)"
)
_SHOW = (
    r"(?:show|showing|shown|depict|depicting|include|including|contain|containing|feature|featuring|have|having|want|need|like|see|add|adding"
    r"|use|put|draw|paint|render|give|portray|display|displaying|involve|involving|be|get|become|look|make (?:it"
    r"|him|her|them|this|that|everything|anyone|anybody)|turn|go|appear|let|allow|generate|create"
    r"|introduce|imply|hint at|hold|holding|carry|carrying|wear|wearing|bring|picture|focus on|dwell on|present)"
)
_REFUSAL_VERB = (
    r"(?:avoid(?:ing)?(?! (?:\w+ )?(?:bullets?|punch\w*|gunfire|attack\w*|arrows?|death|injur\w+)\b)|exclud(?:e|es"
    r"|ing)|omit(?:s|ting)?|skip(?:ping)?|leav(?:e|es|ing) out|leave off|remove(?! [^.;,]* from)|refrain(?:s"
    r"|ing)? from"
    r"|steer(?:ing)? clear of|stay(?:ing)? (?:away|clear) (?:from|of)|keep(?:ing)? (?:away|clear) (?:from|of)"
    r"|ban(?:ning)?|eliminat(?:e|ing)|forgo(?:ing)?"
    r"|cut(?:ting)? out|censor|spare (?:us|me)|shun(?:s|ning)?|delete|filter out|ton(?:e|ing) down|downplay(?:ing)?"
    r"|play(?:ing)? down|minimi[sz](?:e|ing)|reduc(?:e|ing)|go easy on)"
)


def refusal_patterns(topic: str) -> list[str]:
    """Patterns of one of the refused topics: sexual, violence."""
    words = rf"(?:{WORDS[topic]})\b(?!-(?:orange|red|moon))"
    fillers = (
        r"(?:(?:too|overly|even|remotely|at all|in any way|the least bit|anything|any|a|an|one|single|the|of|be"
        r"|being|in|or|and|nor|explicit(?:ly)?"
        r"|holding|carrying|showing|wielding|depicting|featuring|openly|visibly|hint|trace|touch|speck|drop|sort"
        r"|kind|bit|scrap|shred|it|him|her|them) )"
    )
    imperative_gap = r"(?:(?!(?:while|until|but|because|as|so|just|only|blur)\b)[\w'/&-]+ ){0,6}?"
    return [
        _AFFIRMED[topic],
        CHILD_SAFE,
        rf"(?<!\w)(?<!\w-)(?:no|without|sans|minus|zero|free (?:of|from)|devoid of|void of|absent|lacking|absence of"
        rf"|(?<!no )lack of|instead of|rather than|not one) {_NOT_REFUSED}{_LIST}{_GAP}{words}",
        rf"\b{_REFUSAL_VERB} {_LIST}{_GAP}{words}",
        rf"(?<![\w-])not {fillers}{{0,4}}?(?:{_LIST})(?<!only ){words}",
        rf"\b(?:do not|don't|dont|must not|mustn't|should not|shouldn't|shouldnt|may not|can't|cannot|can not"
        rf"|ought not to|ought not|let's not|never|not to|needn't|won't|will not|doesn't|does not)"
        rf" (?:ever |actually |please )?(?!have (?:brought|been|come|left)|hold back|go easy|be (?:shy"
        rf"|afraid))(?:{_SHOW}) {_LIST}{imperative_gap}{words}",
        rf"(?<!\w)(?<!\w-)(?:no|without|zero) (?:any )?\w+ing {words}|\bnever (?:through|with|by|via"
        rf"|as) {_LIST}{_GAP}{words}",
        rf"\b(?:isn't|not|aren't|never) (?:meant|supposed|intended|going|trying) to be (?:\w+ )?{words}",
        rf"\b{words} (?:\w+ )?(?:must|should|may|can|shall|do|does|will)(?: not|n't) (?:appear|feature|show"
        rf"|be (?:\w+ )?(?:shown|visible|seen|included|depicted|present|drawn))",
        rf"\b{words} (?:\w+ )?(?:isn't|is not|aren't|are not) (?:wanted|welcome|allowed|needed|required|shown"
        rf"|visible|permitted|ok|okay|acceptable|desired)",
        rf"\b(?:no|zero)-{words}|\bnegative(?: prompt)?s?:? (?:[\w ]+, ){{0,6}}?(?:\w+ )?{words}|\b{words}: ?(?:none"
        rf"|off|no|zero|0)\b",
        rf"\b(?:isn't|aren't|wasn't|weren't|ain't|no need (?:for|to show|of)) {fillers}{{0,3}}?{words}",
        *(
            [r"\bnothing (?:\w+ or )?(?:dirty|inappropriate|untoward|sleazy|spicy|adult)\b"]
            if topic == "sexual"
            else []
        ),
        rf"\b(?:nothing|none of it|not anything|nobody|no[- ]one|no one|none) (?:(?:too|overly|even|remotely|at all"
        rf"|gets?|is|are|that's|that is|looks?|being|in any way|to do with|in the way of|explicitly|\w+ (?:or|and"
        rf"|nor)) ?){{0,3}}{words}",
        rf"\bneither (?:[\w-]+,? ){{0,7}}?{words}",
        rf"\b(?:keep|keeping|leave|leaving|take|edit|crop) (?:(?:all|any|the|every|his|her|their"
        rf"|of) )*{_LIST}{_GAP}{words}(?:,? (?:and|or) [\w-]+)? (?:out\b|off\b|away\b|to zero|at bay|elsewhere)",
        rf"\b{words}(?:,? (?:and|or|pose|poses|content|scenes?|imagery|elements?|of any kind) ?[\w-]*)? (?:(?:is|are"
        rf"|was|be|being|to be|should be|must be|stays?|remains?|left|strictly|entirely) ){{0,3}}"
        rf"(?:avoided|excluded|omitted|removed|left out|not (?:allowed|permitted|shown|wanted|welcome|visible"
        rf"|included|present)|forbidden|banned|prohibited|off[- ]limits|absent|unwelcome|out of (?:frame|shot|sight"
        rf"|view|the (?:picture|frame|shot))|never (?:shown|seen|visible)|not (?:required|needed|necessary)"
        rf"|unnecessary"
        rf"|put away|laid (?:down|aside)|lowered|sheathed|holstered|set aside|stowed(?: away)?|left behind)\b",
        rf"\b{words}[- ]free\b",
        rf"\b(?:so that|such that|with) no {_GAP}{words} (?:is|are) (?:visible|shown)\b",
    ]
